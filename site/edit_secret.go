package site

import (
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// SetBMCSecret makes a machine's BMC use another secret: the one word in its
// file changes, and nothing else. The secret's name must be in the site, or
// have been added.
func (e *Edit) SetBMCSecret(machine, secret string) error {
	if _, err := kindName().parse(secret); err != nil {
		return fmt.Errorf("a secret cannot be called so: %w", err)
	}
	now, err := e.Site()
	if err != nil {
		return err
	}
	m, ok := now.Machine(machine)
	if !ok {
		return fmt.Errorf("the site has no machine %s", machine)
	}
	data, err := e.read(m.Pos.File)
	if err != nil {
		return err
	}
	list, _ := section(data, "machines")
	var at *yaml.Node
	if list != nil {
		for _, item := range list.Content {
			if nameOf(item) == machine {
				at = child(child(item, "bmc"), "secret")
			}
		}
	}
	if at == nil || at.Kind != yaml.ScalarNode || at.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return fmt.Errorf("%s: machine %s: its bmc's secret does not stand there as a word: write secret: %s by hand", m.Pos.File, machine, secret)
	}
	lines := splitLines(data)
	line := lines[at.Line-1]
	col := len(string([]rune(line)[:at.Column-1])) // columns count characters
	old := at.Value
	switch {
	case at.Style&yaml.DoubleQuotedStyle != 0:
		old = `"` + old + `"`
	case at.Style&yaml.SingleQuotedStyle != 0:
		old = `'` + old + `'`
	}
	if !strings.HasPrefix(line[col:], old) {
		return fmt.Errorf("%s:%d: the secret of machine %s is written in a way that cannot be changed: write secret: %s by hand", m.Pos.File, at.Line, machine, secret)
	}
	lines[at.Line-1] = line[:col] + strings.Replace(old, at.Value, secret, 1) + line[col+len(old):]
	end := "\n"
	if strings.Contains(string(data), "\r\n") {
		end = "\r\n"
	}
	return e.change(m.Pos.File, []byte(strings.Join(lines, end)+end))
}
