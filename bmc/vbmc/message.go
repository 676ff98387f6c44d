package vbmc

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// obj is a JSON object of a resource.
type obj = map[string]any

// message is a Redfish message (DSP0266 §8.6, "Error responses"): an HTTP
// status and an entry of a message registry.
type message struct {
	Status     int
	ID         string // key in the registry
	Args       []string
	Resolution string            // what to do here; the registry's unless said
	Property   string            // related property, JSON pointer
	Header     map[string]string // e.g. Allow
}

func (m *message) Error() string { return m.text() }

// entry is a message as a registry defines it.
type entry struct{ severity, text, resolution string }

// args is how many arguments the text has.
func (e entry) args() int { return strings.Count(e.text, "%") }

// registry is the message registry of most of our MessageIds, DMTF's Base;
// ownRegistry is that of ours.
const (
	registry    = "Base.1.18."
	ownRegistry = "FettleVirtualBMC.1.0."
)

// define is the message's entry, and the registry that holds it.
func (m *message) define() (string, entry) {
	if e, ok := ownMessages[m.ID]; ok {
		return ownRegistry, e
	}
	if e, ok := baseMessages[m.ID]; ok {
		return registry, e
	}
	return registry, entry{"Critical", "A general error has occurred.", "None."}
}

// text is the entry's, with the arguments in it.
func (m *message) text() string {
	_, e := m.define()
	var in []string
	for i, a := range m.Args {
		in = append(in, "%"+strconv.Itoa(i+1), a)
	}
	return strings.NewReplacer(in...).Replace(e.text) // in one go: an argument may have a % in it
}

// info is the message as an entry of @Message.ExtendedInfo.
func (m *message) info() obj {
	reg, e := m.define()
	args, res := m.Args, m.Resolution
	if args == nil {
		args = []string{}
	}
	if res == "" {
		res = e.resolution
	}
	o := obj{
		"@odata.type":     "#Message.v1_1_2.Message",
		"MessageId":       reg + m.ID,
		"Message":         m.text(),
		"MessageArgs":     args,
		"MessageSeverity": e.severity,
		"Severity":        e.severity,
		"Resolution":      res,
	}
	if m.Property != "" {
		o["RelatedProperties"] = []string{m.Property}
	}
	return o
}

// writeError answers with a Redfish error body.
func writeError(w http.ResponseWriter, ms ...*message) {
	infos := make([]obj, len(ms))
	for i, m := range ms {
		infos[i] = m.info()
		for k, v := range m.Header {
			w.Header().Set(k, v)
		}
	}
	reg, _ := ms[0].define()
	code, text := reg+ms[0].ID, ms[0].text()
	if len(ms) > 1 {
		code, text = registry+"GeneralError", baseMessages["GeneralError"].text
	}
	writeJSON(w, ms[0].Status, obj{"error": obj{"code": code, "message": text, "@Message.ExtendedInfo": infos}})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil { // our own maps of strings and numbers always marshal
		http.Error(w, "cannot encode the resource", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that went away is its own matter
}

// registryMessages are the entries of our own registry, as its resource has them.
func registryMessages() obj {
	out := obj{}
	for _, id := range slices.Sorted(maps.Keys(ownMessages)) {
		e := ownMessages[id]
		types := make([]string, e.args())
		for i := range types {
			types[i] = "string"
		}
		out[id] = obj{"Description": e.text, "Message": e.text, "NumberOfArgs": e.args(), "ParamTypes": types,
			"MessageSeverity": e.severity, "Resolution": e.resolution}
	}
	return out
}
