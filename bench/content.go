package bench

import (
	"encoding/binary"
	"math/rand/v2"
	"strconv"
)

// kind is what a file or a run of blocks holds.
type kind int

const (
	text     kind = iota // logs, sources, configuration
	program              // executables and libraries
	database             // pages of a table, partly filled
	media                // compressed already
	zero                 // allocated and unused
)

// pageSize is that of database files.
const pageSize = 8192

// content makes file contents. Not safe for concurrent use.
type content struct {
	*rand.Rand
	words []string // frequent ones first
	lines []string // phrases that come again and again
	codes [][]byte // instructions without their operands, and sequences of them
	clock int64    // seconds, for what carries the time
	row   uint64
}

// newContent makes content from a seed. The vocabulary is the same for all seeds,
// as it is for all files of a system.
func newContent(seed uint64) *content {
	r := rand.New(rand.NewPCG(1, 1))
	c := &content{Rand: rand.New(rand.NewPCG(seed, 2)), clock: 1_700_000_000}
	for range 6000 {
		w := make([]byte, 2+r.IntN(4)+r.IntN(6))
		for i := range w {
			w[i] = "etaoinsrhldcumfpgwybvkxjqz"[min(r.IntN(26), r.IntN(26))]
		}
		c.words = append(c.words, string(w))
	}
	for range 800 {
		var l []byte
		for range 2 + r.IntN(5) {
			l = append(append(l, c.words[r.IntN(len(c.words))]...), ' ')
		}
		c.lines = append(c.lines, string(l))
	}
	for range 2000 {
		code := make([]byte, 1+r.IntN(5))
		for i := range code {
			code[i] = byte(r.Uint32() & r.Uint32()) // low values are more frequent
		}
		c.codes = append(c.codes, code)
	}
	for i := range 3000 {
		var idiom []byte
		for range 2 + r.IntN(5) {
			idiom = append(idiom, c.codes[r.IntN(2000)]...)
		}
		c.codes = append(c.codes, idiom)
		j := r.IntN(2000 + i) // between the others, some of them frequent
		c.codes[j], c.codes[2000+i] = c.codes[2000+i], c.codes[j]
	}
	return c
}

// few returns a number below n, small ones far more often.
func (c *content) few(n int) int { return min(c.IntN(n), c.IntN(n), c.IntN(n), c.IntN(n)) }

// fill makes len(p) bytes of a kind.
func (c *content) fill(k kind, p []byte) {
	switch k {
	case text:
		c.text(p)
	case program:
		c.program(p)
	case database:
		for len(p) > 0 {
			n := min(len(p), pageSize)
			c.page(p[:n])
			p = p[n:]
		}
	case media:
		c.random(p)
	case zero:
		clear(p)
	}
}

func (c *content) random(p []byte) {
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, c.Uint64())
	}
	for i := range p {
		p[i] = byte(c.Uint32())
	}
}

// text makes lines that begin with a time, as those of logs do, and go on in words.
func (c *content) text(p []byte) {
	var line []byte
	for len(p) > 0 {
		c.clock += int64(c.IntN(3))
		line = strconv.AppendInt(line[:0], c.clock, 10)
		line = append(line, " "...)
		for range 1 + c.IntN(3) {
			line = append(line, c.lines[c.few(len(c.lines))]...)
			line = append(append(line, c.words[c.few(len(c.words))]...), ' ')
		}
		if c.IntN(4) == 0 {
			line = strconv.AppendUint(append(line, "id="...), c.Uint64()>>c.IntN(40), 16)
		}
		line = append(line, '\n')
		p = p[copy(p, line):]
	}
}

// program makes instructions with operands, and stretches of strings and tables.
func (c *content) program(p []byte) {
	for len(p) > 0 {
		n := min(len(p), 2048+c.IntN(16<<10))
		switch c.IntN(8) {
		case 0:
			c.text(p[:n])
		case 1:
			for i := range n { // a table of addresses that grow slowly
				p[i] = byte(uint64(i>>3*int(32+c.row&31)) >> (i & 7 * 8))
			}
			c.row++
		default:
			c.instructions(p[:n])
		}
		p = p[n:]
	}
}

func (c *content) instructions(p []byte) {
	for len(p) > 0 {
		n := copy(p, c.codes[min(c.IntN(len(c.codes)), c.IntN(len(c.codes)))])
		p = p[n:]
		if c.IntN(2) == 0 && len(p) >= 4 {
			binary.LittleEndian.PutUint32(p, c.Uint32()>>(8*c.IntN(4)))
			p = p[4:]
		}
	}
}

// page makes a page of rows: a header, items, free room, rows.
func (c *content) page(p []byte) {
	clear(p)
	full := len(p) * (60 + c.IntN(40)) / 100
	if len(p) > 24 {
		binary.LittleEndian.PutUint64(p, c.row<<13)
		binary.LittleEndian.PutUint64(p[8:], c.Uint64()>>32)
	}
	var row []byte
	for at, used := 24, 24; used < full && at < len(p); {
		c.row++
		c.clock++
		row = binary.LittleEndian.AppendUint64(row[:0], c.row)
		row = binary.LittleEndian.AppendUint64(row, uint64(c.clock)*1e6+c.Uint64N(1e6))
		row = binary.LittleEndian.AppendUint64(row, c.Uint64()>>c.IntN(24))
		for range 1 + c.IntN(3) {
			row = append(append(row, c.lines[c.few(len(c.lines))]...), 0)
		}
		at += copy(p[at:], row)
		used = at
	}
}
