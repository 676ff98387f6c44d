package site

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// of is the object that a list of the site holds.
func (o *object) of(key string) *object {
	f, _ := o.field(key)
	l, _ := f.kind.(list)
	of, _ := l.of.(*object)
	return of
}

// encoded is the canonical tree of a thing, without defaults.
func encoded(o *object, thing any) any { return o.encode(reflect.ValueOf(thing)) }

// section is the value of a top-level key of a file and the key's own node,
// nil if it has none.
func section(data []byte, key string) (value, at *yaml.Node) {
	top, _, err := parseYAML(data)
	if err != nil || top == nil || top.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == key {
			return top.Content[i+1], top.Content[i]
		}
	}
	return nil, nil
}

// add writes a thing into a list of a file, in the style of its neighbours.
func (e *Edit) add(file, key string, o *object, thing *yaml.Node, name string) error {
	data, err := e.read(file)
	if err != nil {
		return err
	}
	if _, _, err := parseYAML(data); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	lines := splitLines(data)
	value, at := section(data, key)
	switch {
	case at == nil || value.ShortTag() == "!!null":
		st := e.styleElsewhere(key, o)
		item := st.item(thing)
		if at != nil { // "machines:" with nothing behind it
			lines = slices.Insert(lines, at.Line, item...)
			break
		}
		if len(lines) == 0 {
			lines = e.heading(file)
		}
		if n := len(lines); n > 0 && strings.TrimSpace(lines[n-1]) != "" {
			lines = append(lines, "")
		}
		lines = append(append(lines, key+":"), item...)
	case value.Kind == yaml.SequenceNode && len(value.Content) == 0:
		l := lines[value.Line-1]
		from, to := strings.Index(l, "["), strings.Index(l, "]")
		if from < 0 || to < from {
			return fmt.Errorf("%s:%d: %s is an empty list over several lines; write it as %s: alone, so that fettle can add to it", file, value.Line, key, key)
		}
		lines[value.Line-1] = strings.TrimRight(l[:from]+strings.TrimLeft(l[to+1:], " "), " ")
		lines = slices.Insert(lines, value.Line, e.styleElsewhere(key, o).item(thing)...)
	case value.Kind == yaml.SequenceNode && value.Style&yaml.FlowStyle != 0:
		return fmt.Errorf("%s:%d: %s is written in brackets; write one item a line, each behind \"- \", so that fettle can add to it, or name another file", file, value.Line, key)
	case value.Kind == yaml.SequenceNode:
		lines = insertItem(lines, value, name, o)(thing)
	default:
		return fmt.Errorf("%s:%d: %s is no list", file, value.Line, key)
	}
	end := "\n"
	if bytes.Contains(data, []byte("\r\n")) {
		end = "\r\n"
	}
	return e.change(file, []byte(strings.Join(lines, end)+end))
}

func splitLines(data []byte) []string {
	text := strings.TrimSuffix(string(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// heading is the first line of a new file: the one by which editors find the
// schema, if the site's other files have it.
func (e *Edit) heading(file string) []string {
	names, err := e.names()
	if err != nil {
		return nil
	}
	for _, n := range names[1:] {
		data, err := e.read(n)
		if err != nil || strings.Count(n, "/") != strings.Count(file, "/") {
			continue
		}
		if first, _, _ := strings.Cut(string(data), "\n"); strings.HasPrefix(first, "# yaml-language-server:") {
			return []string{first}
		}
	}
	return nil
}

// insertItem puts a thing into a block list: behind the neighbour of the same
// stem whose number is the nearest below it, else at the end.
func insertItem(lines []string, value *yaml.Node, name string, o *object) func(*yaml.Node) []string {
	after, first := len(value.Content)-1, -1
	found := false
	for i, item := range value.Content {
		n := nameOf(item)
		if stem(n) != stem(name) || n == "" || len(stem(n)) == len(n) {
			continue
		}
		if first < 0 {
			first = i
		}
		if numberOf(n) < numberOf(name) {
			after, found = i, true
		}
	}
	if first >= 0 && !found {
		after = first - 1
	}
	model := value.Content[max(after, 0)]
	st := styleOf(lines, model, o)
	spaced := spacedItems(lines, value, st.dash)
	return func(thing *yaml.Node) []string {
		item := st.item(thing)
		if after < 0 {
			// Before the first: its comments stay above it.
			at := value.Content[0].Line - 1
			for at > 0 && strings.HasPrefix(strings.TrimSpace(lines[at-1]), "#") && indentOf(lines[at-1]) >= st.dash {
				at--
			}
			if spaced {
				item = append(item, "")
			}
			return slices.Insert(lines, at, item...)
		}
		if spaced {
			item = append([]string{""}, item...)
		}
		return slices.Insert(lines, itemEnd(lines, value, after, st.dash), item...)
	}
}

// itemEnd is the number of lines up to the end of an item: what is above the
// next one, comments of its own depth included, is the next one's.
func itemEnd(lines []string, value *yaml.Node, i, dash int) int {
	end := len(lines)
	if i+1 < len(value.Content) {
		end = value.Content[i+1].Line - 1
	} else {
		for n := lastLine(value.Content[i]); n < len(lines); n++ {
			l := strings.TrimSpace(lines[n])
			if l != "" && !strings.HasPrefix(l, "#") && indentOf(lines[n]) <= dash {
				end = n
				break
			}
		}
	}
	for end > 0 {
		l := strings.TrimSpace(lines[end-1])
		if l != "" && (!strings.HasPrefix(l, "#") || indentOf(lines[end-1]) > dash) {
			break
		}
		end--
	}
	return max(end, lastLine(value.Content[i]))
}

// lastLine is the line of the last value of a node.
func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, c := range n.Content {
		last = max(last, lastLine(c))
	}
	return last
}

// spacedItems tells whether blank lines stand between items.
func spacedItems(lines []string, value *yaml.Node, dash int) bool {
	if len(value.Content) < 2 {
		return lastLine(value.Content[0]) > value.Content[0].Line+2
	}
	for i := range len(value.Content) - 1 {
		end := itemEnd(lines, value, i, dash)
		if end < len(lines) && strings.TrimSpace(lines[end]) == "" {
			return true
		}
	}
	return false
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

func nameOf(item *yaml.Node) string {
	for i := 0; i+1 < len(item.Content); i += 2 {
		if item.Content[i].Value == "name" {
			return item.Content[i+1].Value
		}
	}
	return ""
}

// styleElsewhere is the style of the same list in another file of the site, or
// that of the examples.
func (e *Edit) styleElsewhere(key string, o *object) style {
	names, err := e.names()
	if err == nil {
		for _, n := range names {
			data, err := e.read(n)
			if err != nil {
				continue
			}
			if list, _ := section(data, key); list != nil && list.Kind == yaml.SequenceNode && list.Style&yaml.FlowStyle == 0 && len(list.Content) > 0 {
				return styleOf(splitLines(data), list.Content[len(list.Content)-1], o)
			}
		}
	}
	return style{dash: 2, key: 4, step: 2, seq: 2, object: o}
}

// unified writes a unified diff of a file to which lines were added.
func unified(b *strings.Builder, name string, before, after []byte) {
	old, now := splitLines(before), splitLines(after)
	type line struct {
		mark     byte
		text     string
		old, now int
	}
	var all []line
	i := 0
	for j, text := range now {
		if i < len(old) && old[i] == text {
			all = append(all, line{' ', text, i, j})
			i++
			continue
		}
		if i < len(old) && !slices.Contains(now[j:], old[i]) { // a line that went: "machines: []"
			all = append(all, line{'-', old[i], i, j})
			i++
		}
		all = append(all, line{'+', text, i, j})
	}
	from := "a/" + name
	if before == nil {
		from = "/dev/null"
	}
	fmt.Fprintf(b, "--- %s\n+++ b/%s\n", from, name)
	const context = 3
	for at := 0; at < len(all); {
		if all[at].mark == ' ' {
			at++
			continue
		}
		lo, hi := max(at-context, 0), at
		for k := at; k < len(all) && k <= hi+2*context; k++ {
			if all[k].mark != ' ' {
				hi = k
			}
		}
		hi = min(hi+context+1, len(all))
		var oldN, nowN int
		for _, l := range all[lo:hi] {
			if l.mark != '+' {
				oldN++
			}
			if l.mark != '-' {
				nowN++
			}
		}
		start := all[lo].old + 1
		if oldN == 0 {
			start--
		}
		fmt.Fprintf(b, "@@ -%d,%d +%d,%d @@\n", start, oldN, all[lo].now+1, nowN)
		for _, l := range all[lo:hi] {
			fmt.Fprintf(b, "%c%s\n", l.mark, l.text)
		}
		at = hi
	}
}
