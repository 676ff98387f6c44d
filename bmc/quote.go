package bmc

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/stmcginnis/gofish/common"
)

// refusal is an answer that is no success. What it quotes of the BMC's words
// has passed through quote; the body itself, which gofish's error prints, is
// kept nowhere.
type refusal struct {
	status int
	ids    string // MessageIds, with spaces between and behind them
	said   string
}

func (e *refusal) Error() string { return fmt.Sprintf("%d: %s", e.status, e.said) }

// refusal reads the body of an answer that is no success.
func (d *redfishDriver) refusal(status int, body []byte) error {
	var rf *common.Error
	_ = errors.As(common.ConstructError(status, body), &rf) // it always is one
	e := &refusal{status: status, ids: rf.Code + " "}
	var said []string
	for _, x := range rf.ExtendedInfos {
		e.ids += x.MessageID + " "
		if t := cmp.Or(x.Message, x.MessageID); t != "" {
			said = append(said, t)
		}
	}
	if len(said) == 0 {
		said = append(said, rf.Message)
	}
	e.said = d.quote(said...)
	return e
}

// maxQuoted bounds what an error repeats of a BMC's words.
const maxQuoted = 300

// quote is what a BMC said, for people: one line of bounded length, without
// what a terminal would obey and without the passwords of this session, which
// some BMCs repeat. They go first: of what was cut no half of one can be told.
func (d *redfishDriver) quote(said ...string) string {
	hide := d.hidden()
	for i := range said {
		said[i] = uriUser.ReplaceAllString(hide.Replace(said[i]), "//"+secret+"@")
	}
	s := strings.Join(strings.Fields(strings.Join(said, " ")), " ")
	if strings.HasPrefix(s, "<") {
		return "(a page of HTML)"
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > maxQuoted {
		s = string(r[:maxQuoted]) + "..."
	}
	return s
}

// uriUser is what a URI holds before its host, up to the last @, as net/url
// reads it.
var uriUser = regexp.MustCompile(`//[^/?#\s"'<>]*@`)

// hidden replaces what this session sends to the BMC and nobody may read.
func (d *redfishDriver) hidden() *strings.Replacer {
	d.mu.Lock()
	given := d.given
	d.mu.Unlock()
	var all []string
	for _, s := range append([]string{string(d.t.Password), d.token}, given...) {
		if s != "" {
			all = append(all, written(s)...)
		}
	}
	if d.t.Password != "" {
		all = append(all, base64.StdEncoding.EncodeToString([]byte(d.t.User+":"+string(d.t.Password)))) // of basic authentication
	}
	// The longest first: one may be the beginning of another.
	slices.SortStableFunc(all, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range all {
		pairs = append(pairs, s, secret)
	}
	return strings.NewReplacer(pairs...)
}

// written are the ways in which a text may stand in an answer: as it is, and as
// it is written in JSON, in HTML, in a URI and by Supermicro's pages.
func written(s string) []string {
	out := []string{s, html.EscapeString(s), url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s))}
	for _, escape := range []bool{true, false} {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(escape)
		if enc.Encode(s) == nil {
			out = append(out, strings.Trim(strings.TrimSpace(b.String()), `"`))
		}
	}
	return out
}

// tells is err without the passwords of this session, where its text, which
// may repeat what was read, has one.
func (d *redfishDriver) tells(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if hidden := d.hidden().Replace(text); hidden != text {
		return &hiddenError{hidden, err}
	}
	return err
}

type hiddenError struct {
	text string
	err  error
}

func (e *hiddenError) Error() string { return e.text }
func (e *hiddenError) Unwrap() error { return e.err }

// statusText is a status as errors have it: the BMC's own words for it are not
// repeated.
func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}
