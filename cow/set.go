package cow

import (
	"maps"
	"math/bits"
	"slices"
)

const (
	leafBits = 12 // log2 of the chunk numbers in a leaf
	// nearLeaves bounds the directory that one number can make grow: 32 MiB of
	// pointers reach over 2^34 chunks, 64 TiB of 4 KiB chunks.
	nearLeaves = 1 << 22
)

type leaf [1 << leafBits / 64]uint64

// set is a set of chunk numbers: a bitmap in leaves that are made when needed. It
// finds duplicates as numbers come and has them sorted in the end. A leaf takes
// 512 bytes, so that not even numbers far apart cost much more than the 16 bytes
// of table they came in.
type set struct {
	near []*leaf          // by number >> leafBits, grown to the largest seen
	far  map[uint64]*leaf // beyond nearLeaves
}

// leaf returns the leaf numbered key, making it if it is missing.
func (s *set) leaf(key uint64) *leaf {
	if key >= nearLeaves {
		if s.far == nil {
			s.far = make(map[uint64]*leaf)
		}
		if s.far[key] == nil {
			s.far[key] = new(leaf)
		}
		return s.far[key]
	}
	if n := int(key) + 1; n > len(s.near) {
		s.near = slices.Grow(s.near, n-len(s.near))[:n]
	}
	if s.near[key] == nil {
		s.near[key] = new(leaf)
	}
	return s.near[key]
}

// add puts v into s and tells whether it was missing.
func (s *set) add(v uint64) bool {
	w, bit := &s.leaf(v >> leafBits)[v>>6%uint64(len(leaf{}))], uint64(1)<<(v&63)
	if *w&bit != 0 {
		return false
	}
	*w |= bit
	return true
}

func (s *set) has(v uint64) bool {
	key, l := v>>leafBits, (*leaf)(nil)
	if key >= nearLeaves {
		l = s.far[key]
	} else if key < uint64(len(s.near)) {
		l = s.near[key]
	}
	return l != nil && l[v>>6%uint64(len(l))]>>(v&63)&1 != 0
}

// runs yields the longest runs of consecutive numbers in ascending order: each
// run's first number and its length.
func (s *set) runs(yield func(start, n uint64) bool) {
	var start, n uint64
	leafRuns := func(key uint64, l *leaf) bool {
		for i, w := range l {
			base := key<<leafBits + uint64(i)<<6
			for w != 0 {
				skip := bits.TrailingZeros64(w)
				ones := bits.TrailingZeros64(^(w >> skip))
				w &^= (1<<ones - 1) << skip
				first := base + uint64(skip)
				if n > 0 && start+n == first {
					n += uint64(ones)
					continue
				}
				if n > 0 && !yield(start, n) {
					return false
				}
				start, n = first, uint64(ones)
			}
		}
		return true
	}
	for key, l := range s.near {
		if l != nil && !leafRuns(uint64(key), l) {
			return
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.far)) {
		if !leafRuns(key, s.far[key]) {
			return
		}
	}
	if n > 0 {
		yield(start, n)
	}
}
