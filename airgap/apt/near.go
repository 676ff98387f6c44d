package apt

import (
	"maps"
	"slices"
	"strings"
)

// near says how a name that no suite has may be meant.
func (u *universe) near(name string) string {
	if strings.ContainsAny(name, "*?[") {
		return "; packages are named, there are no patterns (priority:required takes all of a priority, no packages at all takes the whole mirror)"
	}
	best, limit := "", max(1, min(2, len(name)/3))+1
	for _, k := range slices.Sorted(maps.Keys(u.byName)) {
		if d := edits(name, k, limit); d < limit {
			best, limit = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// edits counts single letters to be added, removed or changed to make b of a
// (Levenshtein's distance), or is limit when there are so many.
func edits(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := corner
			if a[i] != b[j] {
				d++
			}
			corner, row[j+1] = row[j+1], min(d, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], limit)
}
