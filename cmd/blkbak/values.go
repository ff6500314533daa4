package main

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blkbak/blkbak/internal/catalog"
)

// This file holds the flag types that urfave/cli lacks: sizes, durations with
// days, times, choices, and text that may not be empty. Each constructor takes
// the variable to set; what it holds beforehand is the default.

// setter is a flag value made of a parser and a formatter.
type setter[T any] struct {
	p      *T
	parse  func(string) (T, error)
	format func(T) string
}

func (s *setter[T]) Set(text string) error {
	v, err := s.parse(text)
	if err == nil {
		*s.p = v
	}
	return err
}

func (s *setter[T]) String() string {
	if s.p == nil {
		return "" // package flag asks a zero value
	}
	return s.format(*s.p)
}

func sizeFlag(p *int64, name, usage string, aliases ...string) *cli.GenericFlag {
	return genericFlag(&setter[int64]{p, parseSize, formatSize}, name, usage, aliases)
}

func durationFlag(p *time.Duration, name, usage string, aliases ...string) *cli.GenericFlag {
	return genericFlag(&setter[time.Duration]{p, parseDuration, formatDuration}, name, usage, aliases)
}

func timeFlag(p *time.Time, name, usage string, aliases ...string) *cli.GenericFlag {
	parse := func(s string) (time.Time, error) { return parseTime(s, time.Local) }
	format := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Format(time.RFC3339Nano)
	}
	return genericFlag(&setter[time.Time]{p, parse, format}, name, usage, aliases)
}

// textFlag is text that may not be empty: an unset variable in a script must
// not silently mean the default.
func textFlag(p *string, name, usage string, aliases ...string) *cli.GenericFlag {
	parse := func(s string) (string, error) {
		if s == "" {
			return "", errors.New("it is empty")
		}
		return s, nil
	}
	return genericFlag(&setter[string]{p, parse, func(s string) string { return s }}, name, usage, aliases)
}

// choiceValue is one word of a few.
type choiceValue struct {
	p     *string
	words []string
}

func (c *choiceValue) Set(s string) error {
	if !slices.Contains(c.words, s) {
		return fmt.Errorf("want one of %s", strings.Join(c.words, ", "))
	}
	*c.p = s
	return nil
}

func (c *choiceValue) String() string {
	if c.p == nil {
		return ""
	}
	return *c.p
}

func choiceFlag(p *string, name, usage string, words ...string) *cli.GenericFlag {
	return genericFlag(&choiceValue{p, words}, name, usage, nil)
}

func genericFlag(v cli.Generic, name, usage string, aliases []string) *cli.GenericFlag {
	return &cli.GenericFlag{Name: name, Aliases: aliases, Usage: usage, Value: v}
}

// envFlag lets the environment give the value.
func envFlag(variable string, f *cli.GenericFlag) *cli.GenericFlag {
	f.EnvVars = []string{variable}
	return f
}

var sizeUnits = []string{"", "K", "M", "G", "T", "P"}

// parseSize reads a number of bytes: "4096", "64KiB", "1.5G". K, M, G, T and P
// are powers of 1024, with or without iB, in either case.
func parseSize(s string) (int64, error) {
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.') {
		end++
	}
	number, unit := s[:end], strings.ToUpper(strings.TrimSpace(s[end:]))
	switch {
	case strings.HasPrefix(s, "-"):
		return 0, errors.New("a size is not negative")
	case number == "" || number[0] == '.' || len(number) > 32 || strings.HasSuffix(number, "."):
		return 0, errors.New("want a number of bytes, such as 4096, 64KiB or 1.5G")
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, fmt.Errorf("%q is not a number", number)
	}
	prefix := strings.TrimSuffix(unit, "IB")
	if unit == "B" {
		prefix = ""
	}
	power := slices.Index(sizeUnits, prefix)
	switch {
	case power < 0 && len(unit) == 2 && unit[1] == 'B' && slices.Contains(sizeUnits, unit[:1]):
		return 0, fmt.Errorf("%s may mean 1000 or 1024: write %siB or %s, which count in 1024", unit, unit[:1], unit[:1])
	case power < 0 || unit == "IB":
		return 0, fmt.Errorf("unknown unit %q, want KiB, MiB, GiB, TiB, PiB or K, M, G, T, P", s[end:])
	}
	value.Mul(value, new(big.Rat).SetInt64(1<<(10*power)))
	if !value.IsInt() {
		return 0, errors.New("it is not a whole number of bytes")
	}
	if !value.Num().IsInt64() {
		return 0, fmt.Errorf("it is more than %d bytes", int64(math.MaxInt64))
	}
	return value.Num().Int64(), nil
}

// formatSize is the inverse of parseSize: exact, in the largest unit that has no
// fraction.
func formatSize(n int64) string {
	if n == 0 {
		return "0"
	}
	power := 0
	for n%1024 == 0 && power < len(sizeUnits)-1 {
		n /= 1024
		power++
	}
	if power == 0 {
		return strconv.FormatInt(n, 10)
	}
	return strconv.FormatInt(n, 10) + sizeUnits[power] + "iB"
}

// parseDuration reads what time.ParseDuration does, and before that days, weeks
// and years as multiples of 24 hours: "36h", "7d", "1y2w", "1d12h30m".
func parseDuration(s string) (time.Duration, error) {
	const day = 24 * time.Hour
	long := map[byte]time.Duration{'y': 365 * day, 'w': 7 * day, 'd': day}
	want := errors.New("want a time span, such as 90m, 36h, 7d, 2w or 1y")
	var total time.Duration
	rest := s
	for {
		end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if end <= 0 || long[rest[end]] == 0 {
			break
		}
		n, err := strconv.ParseInt(rest[:end], 10, 64)
		unit := long[rest[end]]
		if err != nil || n > int64((math.MaxInt64-total)/unit) {
			return 0, errors.New("it is more than 292 years")
		}
		total += time.Duration(n) * unit
		rest = rest[end+1:]
	}
	if rest == "" && s != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	switch {
	case err != nil:
		return 0, want
	case d < 0:
		return 0, errors.New("a time span is not negative")
	case d > math.MaxInt64-total:
		return 0, errors.New("it is more than 292 years")
	}
	return total + d, nil
}

func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return d.String()
}

// parseTime reads RFC 3339, or the beginning of it from the year on, which is
// then a time in loc: "2026-11-20T01:01", "2026-11-20".
func parseTime(s string, loc *time.Location) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	text := strings.Replace(s, " ", "T", 1)
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02", "2006-01", "2006"} {
		if t, err := time.ParseInLocation(layout, text, loc); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("want a time, such as 2026-11-20T01:01, 2026-11-20 or 2026-11-20T01:01:00Z")
}

// textsFlag gathers the values of a flag that may be given several times.
type textsFlag struct{ values []string }

func (t *textsFlag) Set(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	t.values = append(t.values, s)
	return nil
}

func (t *textsFlag) String() string { return strings.Join(t.values, ", ") }

func (t *textsFlag) flag(name, usage string) *cli.GenericFlag {
	return genericFlag(t, name, usage, nil)
}

// parse reads the values as KEY=VALUE.
func (t *textsFlag) parse() (map[string]string, error) {
	tags := make(map[string]string)
	for _, s := range t.values {
		k, v, err := catalog.ParseTag(s)
		if err != nil {
			return nil, err
		}
		tags[k] = v
	}
	return tags, nil
}
