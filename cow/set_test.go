package cow

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSet compares with a map, near and far, and over word and leaf borders.
func TestSet(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	bases := []uint64{0, 60, 1020, 1 << 20, nearLeaves<<leafBits - 100, nearLeaves<<leafBits + 5, 1 << 53}
	for range 60 {
		var s set
		want := map[uint64]bool{}
		for range 30 {
			v, n := bases[r.IntN(len(bases))]+r.Uint64N(3000), 1+r.Uint64N(200)
			dup, clash := uint64(0), false
			for i := v; i < v+n; i++ {
				if want[i] {
					dup, clash = i, true
					break
				}
			}
			got, ok := s.add(v, n)
			if ok == clash || clash && got != dup {
				t.Fatalf("add %d+%d: %d, %v; want %d, %v", v, n, got, ok, dup, !clash)
			}
			if clash {
				break // good for nothing any more
			}
			for i := v; i < v+n; i++ {
				want[i] = true
			}
			if !s.has(v) || s.has(v+5000) != want[v+5000] {
				t.Fatal("has")
			}
			var got2 []uint64
			last := uint64(0)
			s.runs(func(start, n uint64) bool {
				if len(got2) > 0 && start <= last {
					t.Fatalf("run at %d touches the one up to %d", start, last)
				}
				for last = start; last < start+n; last++ {
					got2 = append(got2, last)
				}
				return true
			})
			if !slices.Equal(got2, slices.Sorted(maps.Keys(want))) {
				t.Fatal("runs differ")
			}
		}
	}
}

func TestSetStops(t *testing.T) {
	var s set
	for _, v := range []uint64{1, 70, 2000, 1 << 50} {
		s.add(v, 1)
	}
	for stop := 1; stop <= 4; stop++ {
		n := 0
		s.runs(func(_, _ uint64) bool { n++; return n < stop })
		if n != stop {
			t.Errorf("%d runs after stopping at %d", n, stop)
		}
	}
}
