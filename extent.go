package blkbak

import (
	"fmt"
	"slices"
)

// Extent is a run of bytes on a device: [Off, Off+Len).
type Extent struct {
	Off int64
	Len int64
}

// End is the offset of the first byte after e.
func (e Extent) End() int64 { return e.Off + e.Len }

func (e Extent) String() string { return fmt.Sprintf("%d+%d", e.Off, e.Len) }

// MarshalJSON writes e as the pair [offset,length].
func (e Extent) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[%d,%d]", e.Off, e.Len), nil
}

// MergeExtents sorts s in place and joins runs that overlap or touch. Empty
// extents vanish. The result shares s's memory: sorted, disjoint, not adjacent.
func MergeExtents(s []Extent) []Extent {
	slices.SortFunc(s, func(a, b Extent) int {
		switch {
		case a.Off < b.Off:
			return -1
		case a.Off > b.Off:
			return 1
		}
		return 0
	})
	out := s[:0]
	for _, e := range s {
		out = AppendExtent(out, e)
	}
	return out
}

// AppendExtent appends e to the sorted list s, none of whose extents starts after
// e does. Where e touches or overlaps the last one, that one grows instead.
func AppendExtent(s []Extent, e Extent) []Extent {
	if e.Len <= 0 {
		return s
	}
	if n := len(s); n > 0 && s[n-1].End() >= e.Off {
		s[n-1].Len = max(s[n-1].End(), e.End()) - s[n-1].Off
		return s
	}
	return append(s, e)
}

// AlignExtents widens every extent of the sorted list s to multiples of grain,
// joins what then touches, and cuts the result at size. It returns a new list.
func AlignExtents(s []Extent, grain, size int64) []Extent {
	out := make([]Extent, 0, len(s))
	for _, e := range s {
		start := e.Off / grain * grain
		end := min((e.End()+grain-1)/grain*grain, size)
		out = AppendExtent(out, Extent{start, end - start})
	}
	return out
}

// ExtentBytes is the sum of the lengths in s.
func ExtentBytes(s []Extent) int64 {
	var n int64
	for _, e := range s {
		n += e.Len
	}
	return n
}

// IntersectExtents returns what the sorted lists a and b both cover.
func IntersectExtents(a, b []Extent) []Extent {
	var out []Extent
	for len(a) > 0 && len(b) > 0 {
		start, end := max(a[0].Off, b[0].Off), min(a[0].End(), b[0].End())
		out = AppendExtent(out, Extent{start, end - start})
		if a[0].End() < b[0].End() {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}
