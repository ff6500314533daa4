package main

// nearest returns the candidate that typed most likely stands for, or "" when
// none is near enough to be worth saying.
func nearest(typed string, candidates []string) string {
	if len(typed) > 64 {
		return "" // no typing error, and the distance costs a product
	}
	best, bestCost := "", 2*max(1, len(typed)/3)+2
	for _, c := range candidates {
		cost := 2 * distance(typed, c)
		if typed == "" || c == "" || typed[0] != c[0] {
			cost++ // people rarely get the first letter wrong
		}
		if cost < bestCost {
			best, bestCost = c, cost
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour in order to make b of a.
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	// Row i holds the distances of s[:i] from every t[:j].
	before, above, row := make([]int, len(t)+1), make([]int, len(t)+1), make([]int, len(t)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(s); i++ {
		row[0] = i
		for j := 1; j <= len(t); j++ {
			differ := 1
			if s[i-1] == t[j-1] {
				differ = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+differ)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(t)]
}
