package main

import (
	"flag"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1, "512": 512, "512B": 512, "512b": 512,
		"64KiB": 64 << 10, "64kib": 64 << 10, "64K": 64 << 10, "64k": 64 << 10, "64 KiB": 64 << 10,
		"3MiB": 3 << 20, "3M": 3 << 20, "2GiB": 2 << 30, "2G": 2 << 30,
		"5TiB": 5 << 40, "5T": 5 << 40, "7PiB": 7 << 50, "7p": 7 << 50,
		"1.5G": 3 << 29, "0.5K": 512, "2.0": 2, "0.25KiB": 256,
		"9223372036854775807": math.MaxInt64, "8191P": 8191 << 50,
		"00012": 12,
	} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"":                      "want a number",
		"K":                     "want a number",
		".5K":                   "want a number",
		"5.K":                   "want a number",
		"lots":                  "want a number",
		"1.2.3":                 "not a number",
		"-1":                    "not negative",
		"-4K":                   "not negative",
		"+4K":                   "want a number",
		"0x10":                  "unknown unit",
		"1e3":                   "unknown unit",
		"64KB":                  "write KiB or K",
		"64MB":                  "write MiB or M",
		"4X":                    "unknown unit",
		"4iB":                   "unknown unit",
		"4KiBB":                 "unknown unit",
		"4K 4":                  "unknown unit",
		"4E":                    "unknown unit",
		"1.5":                   "not a whole number",
		"0.0001K":               "not a whole number",
		"9223372036854775808":   "more than",
		"8192P":                 "more than",
		"99999999T":             "more than",
		strings.Repeat("9", 32): "more than",
		strings.Repeat("9", 33): "want a number",
		"1\x00":                 "unknown unit",
		"1½":                    "unknown unit",
	} {
		if got, err := parseSize(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v; want an error with %q", s, got, err, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"64KiB", "1.5G", "512B", "9223372036854775807", "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSize(s)
		if err != nil {
			return
		}
		if again, err := parseSize(formatSize(n)); err != nil || again != n {
			t.Fatalf("%q is %d, written %q, read as %d, %v", s, n, formatSize(n), again, err)
		}
	})
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 1: "1", 1000: "1000", 1024: "1KiB", 1536: "1536", 65536: "64KiB", 1 << 40: "1TiB", 1 << 60: "1024PiB",
	} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "36h": 36 * time.Hour, "1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute,
		"7d": 7 * day, "2w": 14 * day, "1y": 365 * day, "1y2w3d": 382 * day, "1d12h": 36 * time.Hour, "0d": 0, "0": 0,
		"292y": 292 * 365 * day,
	} {
		if got, err := parseDuration(s); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"": "want a time span", "5": "want a time span", "d": "want a time span", "7 d": "want a time span", "7D": "want a time span",
		"1h2d": "want a time span", "-1h": "not negative", "1d-1h": "not negative",
		"293y": "292 years", "106752d": "292 years", "99999999999999999999d": "292 years", "292y2000000h": "292 years", "é": "want a time span",
	} {
		if got, err := parseDuration(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", s, got, err, want)
		}
	}
	for _, d := range []time.Duration{0, time.Second, day, 36 * time.Hour, 365 * day} {
		if got, err := parseDuration(formatDuration(d)); err != nil || got != d {
			t.Errorf("%v is written %q and read as %v, %v", d, formatDuration(d), got, err)
		}
	}
}

func TestParseTime(t *testing.T) {
	loc := time.FixedZone("here", 2*3600)
	for s, want := range map[string]string{
		"2026-11-20T01:01:00Z":      "2026-11-20T01:01:00Z",
		"2026-11-20T01:01:00.5Z":    "2026-11-20T01:01:00.5Z",
		"2026-11-20T01:01:00+05:00": "2026-11-19T20:01:00Z",
		"2026-11-20T01:01:30":       "2026-11-19T23:01:30Z",
		"2026-11-20T01:01":          "2026-11-19T23:01:00Z",
		"2026-11-20 01:01":          "2026-11-19T23:01:00Z",
		"2026-11-20T01":             "2026-11-19T23:00:00Z",
		"2026-11-20":                "2026-11-19T22:00:00Z",
		"2026-11":                   "2026-10-31T22:00:00Z",
		"2026":                      "2025-12-31T22:00:00Z",
	} {
		got, err := parseTime(s, loc)
		if err != nil || got.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %v, %v; want %s", s, got.UTC(), err, want)
		}
	}
	for _, s := range []string{"", "now", "yesterday", "2026-13-01", "2026-02-30", "20-11-2026", "2026-11-20T25:00", "2026-11-20T01:01x", "2026-11-20T01:01 Z"} {
		if got, err := parseTime(s, loc); err == nil {
			t.Errorf("%q: %v, want an error", s, got)
		}
	}
}

// TestFlagValues sets each type the way urfave/cli does.
func TestFlagValues(t *testing.T) {
	size, span, when, text, choice := int64(64<<10), time.Duration(0), time.Time{}, "", "auto"
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range []interface{ Apply(*flag.FlagSet) error }{
		sizeFlag(&size, "size", "", "s"), durationFlag(&span, "span", ""), timeFlag(&when, "when", ""),
		textFlag(&text, "text", ""), choiceFlag(&choice, "choice", "", "auto", "bar"),
	} {
		if err := f.Apply(set); err != nil {
			t.Fatal(err)
		}
	}
	if got := set.Lookup("size").DefValue; got != "64KiB" {
		t.Errorf("default size is shown as %q", got)
	}
	if err := set.Parse([]string{"-s", "1M", "--span=2d", "--when", "2026-11-20T01:01:00Z", "--text", "x", "--choice=bar"}); err != nil {
		t.Fatal(err)
	}
	if size != 1<<20 || span != 48*time.Hour || when.Unix() != 1795136460 || text != "x" || choice != "bar" {
		t.Errorf("got %v %v %v %q %q", size, span, when, text, choice)
	}
	for _, arg := range []string{"--size=x", "--span=x", "--when=x", "--text=", "--choice=x"} {
		if err := set.Parse([]string{arg}); err == nil {
			t.Errorf("%s was taken", arg)
		}
	}
	if size != 1<<20 || text != "x" || choice != "bar" {
		t.Errorf("a refused value was kept: %v %q %q", size, text, choice)
	}
}
