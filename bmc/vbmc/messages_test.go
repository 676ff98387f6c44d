package vbmc

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// TestBaseMessages: what we send of DMTF's Base registry stands in it as we
// send it. The registry is that of the crawled Lenovo server, 1.12.1; entries
// that came later were compared by hand with 1.16.0.
func TestBaseMessages(t *testing.T) {
	later := map[string]bool{"ArraySizeTooLong": true, "HeaderInvalid": true, "OperationNotAllowed": true, "PayloadTooLarge": true, "QueryParameterUnsupported": true}
	var file struct {
		Messages map[string]struct {
			Message, MessageSeverity string
			NumberOfArgs             int
		}
	}
	crawled(t, "lenovo", func(name string, r io.Reader) {
		if strings.Contains(name, "/registries/Base.1.12.1.json/") {
			if err := json.NewDecoder(r).Decode(&file); err != nil {
				t.Fatal(err)
			}
		}
	})
	if len(file.Messages) < 50 {
		t.Fatalf("the Base registry has %d messages; want more", len(file.Messages))
	}
	for id, e := range baseMessages {
		m, ok := file.Messages[id]
		if ok == later[id] {
			t.Errorf("%s: in the registry: %v", id, ok)
		}
		if ok && (m.Message != e.text || m.MessageSeverity != e.severity || m.NumberOfArgs != e.args()) {
			t.Errorf("%s is %s %q with %d arguments; want %s %q with %d", id, e.severity, e.text, e.args(), m.MessageSeverity, m.Message, m.NumberOfArgs)
		}
	}
}

// checkMessage tells what is wrong with an entry of @Message.ExtendedInfo: every
// MessageId is of a registry that exists, with as many arguments as it wants.
func checkMessage(info obj) string {
	id, _ := info["MessageId"].(string)
	key := id[strings.LastIndex(id, ".")+1:]
	e, known := baseMessages[key], strings.HasPrefix(id, registry)
	if strings.HasPrefix(id, ownRegistry) {
		e, known = ownMessages[key]
	}
	args, _ := info["MessageArgs"].([]any)
	switch {
	case !known || e.text == "":
		return "no registry has the message " + id
	case len(args) != e.args():
		return id + " has other arguments than its registry says"
	}
	return ""
}

// TestMessageText: an argument that looks like the place of another stays as it is.
func TestMessageText(t *testing.T) {
	got := (&message{ID: "ImageNotFetched", Args: []string{"http://files.example.org/a%20b.bin", "it is gone"}}).text()
	if !strings.Contains(got, "http://files.example.org/a%20b.bin") || strings.Count(got, "it is gone") != 1 {
		t.Errorf("text() = %q; want the URI and the reason, once each", got)
	}
}
