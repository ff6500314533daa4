package cow

import (
	"maps"
	"math/bits"
	"slices"
)

const (
	leafBits = 10 // log2 of the chunk numbers in a leaf: 128 bytes
	slabBits = 9  // log2 of the leaves in a slab: 64 KiB
	// nearLeaves bounds the directory that one number can make grow: 64 MiB reach
	// over 2^34 chunks, 64 TiB of 4 KiB chunks.
	nearLeaves = 1 << 24
)

type leaf [1 << leafBits / 64]uint64

// set is a set of chunk numbers: a bitmap in leaves that are made when needed. It
// finds duplicates as numbers come and has them sorted in the end. Numbers far
// apart cost a leaf each, about ten times the 16 bytes of table that they came
// in; a dense set takes a bit a number.
type set struct {
	// Directories by number >> leafBits: 1 + the leaf's index, 0 for none. Near
	// grows to the largest number seen, what is beyond nearLeaves goes to far.
	near  []uint32
	far   map[uint64]uint32
	slabs []*[1 << slabBits]leaf
	used  uint32 // leaves of slabs
}

// leaf returns the leaf that holds v, making it if it is missing.
func (s *set) leaf(v uint64) *leaf {
	key := v >> leafBits
	if key < uint64(len(s.near)) && s.near[key] != 0 {
		return s.at(s.near[key])
	}
	if key >= nearLeaves {
		if s.far == nil {
			s.far = make(map[uint64]uint32)
		}
		if s.far[key] == 0 {
			s.far[key] = s.newLeaf()
		}
		return s.at(s.far[key])
	}
	if n := int(key) + 1; n > len(s.near) {
		s.near = slices.Grow(s.near, n-len(s.near))[:n]
	}
	s.near[key] = s.newLeaf()
	return s.at(s.near[key])
}

// at returns the leaf that a directory calls i.
func (s *set) at(i uint32) *leaf {
	i--
	return &s.slabs[i>>slabBits][i%(1<<slabBits)]
}

// newLeaf makes a leaf and returns what directories call it.
func (s *set) newLeaf() uint32 {
	if s.used>>slabBits == uint32(len(s.slabs)) {
		s.slabs = append(s.slabs, new([1 << slabBits]leaf))
	}
	s.used++
	return s.used
}

// add puts the n numbers from v on into s. If one is there already it returns the
// first such, and s is good for nothing any more.
func (s *set) add(v, n uint64) (dup uint64, ok bool) {
	for n > 0 {
		l := s.leaf(v)
		for {
			i, shift := v>>6%uint64(len(l)), v&63
			k := min(n, 64-shift)
			mask := (uint64(1)<<k - 1) << shift // k = 64: the shift gives 0, and that less 1 all ones
			if both := l[i] & mask; both != 0 {
				return v - shift + uint64(bits.TrailingZeros64(both)), false
			}
			l[i] |= mask
			v, n = v+k, n-k
			if n == 0 || v%(1<<leafBits) == 0 {
				break
			}
		}
	}
	return 0, true
}

func (s *set) has(v uint64) bool {
	key, i := v>>leafBits, uint32(0)
	if key >= nearLeaves {
		i = s.far[key]
	} else if key < uint64(len(s.near)) {
		i = s.near[key]
	}
	if i == 0 {
		return false
	}
	l := s.at(i)
	return l[v>>6%uint64(len(l))]>>(v&63)&1 != 0
}

// runs yields the longest runs of consecutive numbers in ascending order: each
// run's first number and its length.
func (s *set) runs(yield func(start, n uint64) bool) {
	j := joiner{yield: yield}
	for key, i := range s.near {
		if i != 0 && !j.leaf(uint64(key), s.at(i)) {
			return
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.far)) {
		if !j.leaf(key, s.at(s.far[key])) {
			return
		}
	}
	if j.n > 0 {
		yield(j.start, j.n)
	}
}

// joiner joins runs that touch across words and leaves.
type joiner struct {
	yield    func(start, n uint64) bool
	start, n uint64 // the run that may still grow, none if n is 0
}

// leaf passes on the runs of a leaf and tells whether to go on.
func (j *joiner) leaf(key uint64, l *leaf) bool {
	for i, w := range l {
		base := key<<leafBits + uint64(i)<<6
		for w != 0 {
			skip := bits.TrailingZeros64(w)
			ones := bits.TrailingZeros64(^(w >> skip))
			w &^= (1<<ones - 1) << skip
			first := base + uint64(skip)
			if j.n > 0 && j.start+j.n == first {
				j.n += uint64(ones)
				continue
			}
			if j.n > 0 && !j.yield(j.start, j.n) {
				return false
			}
			j.start, j.n = first, uint64(ones)
		}
	}
	return true
}
