package vbmc

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// metrics are which readings a report or a trigger is of: by properties, in
// which {Name} stands for the values of a wildcard.
type metrics struct {
	properties []string // MetricProperties
	wildcards  []wildcard
	named      []namedMetric // Metrics: with ids of their own
}

type wildcard struct {
	name   string
	values []string // "*" is any
}

type namedMetric struct {
	id         string
	properties []string
}

// has tells whether a sensor's reading is among them, and by which id.
func (m metrics) has(x Sensor) (id string, ok bool) {
	at := readingOf(x)
	for _, n := range m.named {
		if slices.ContainsFunc(n.properties, func(p string) bool { return m.fits(p, at) }) {
			return n.id, true
		}
	}
	return x.ID, slices.ContainsFunc(m.properties, func(p string) bool { return m.fits(p, at) })
}

// fits compares a property, in which wildcards may stand, with a reading's. A
// fragment is as good as a slash: /Sensors/X#/Reading.
func (m metrics) fits(property, reading string) bool {
	property = strings.Replace(property, "#/", "/", 1)
	if !strings.Contains(property, "{") {
		return property == reading
	}
	want, got := strings.Split(property, "/"), strings.Split(reading, "/")
	if len(want) != len(got) {
		return false
	}
	for i, w := range want {
		name, is := strings.CutPrefix(w, "{")
		if !is {
			if w != got[i] {
				return false
			}
			continue
		}
		name = strings.TrimSuffix(name, "}")
		if !slices.ContainsFunc(m.wildcards, func(c wildcard) bool {
			return c.name == name && (slices.Contains(c.values, "*") || slices.Contains(c.values, got[i]))
		}) {
			return false
		}
	}
	return true
}

// all are the properties of all of them.
func (m metrics) all() []string {
	out := slices.Clone(m.properties)
	for _, n := range m.named {
		out = append(out, n.properties...)
	}
	return out
}

// check refuses what names no reading of this chassis.
func (m metrics) check(c *call, s *Server) error {
	all := m.all()
	if len(all) == 0 {
		return msgMissing("MetricProperties")
	}
	if len(all) > maxMetrics {
		return about("MetricProperties", "ArraySizeTooLong", "MetricProperties", strconv.Itoa(maxMetrics))
	}
	sensors, err := s.sensors(c.ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		if !slices.ContainsFunc(sensors, func(x Sensor) bool { return m.fits(p, readingOf(x)) }) {
			return msgNotInList("MetricProperties", p)
		}
	}
	return nil
}

// parse takes a property of a report or a trigger that says which metrics.
func (m *metrics) parse(name string, v any) (err error) {
	anything := func(string) bool { return true }
	objects := func(each func(at string, in obj) error) error {
		l, ok := v.([]any)
		if !ok || len(l) > maxMetrics {
			return msgPropertyType(name, v)
		}
		for i, x := range l {
			in, ok := x.(obj)
			if !ok {
				return msgPropertyType(name, x)
			}
			if err := each(name+"/"+strconv.Itoa(i)+"/", in); err != nil {
				return err
			}
		}
		return nil
	}
	switch name {
	case "MetricProperties":
		m.properties, err = texts(name, v, anything)
		return err
	case "Wildcards":
		m.wildcards = nil
		return objects(func(at string, in obj) error {
			var w wildcard
			for _, k := range slices.Sorted(maps.Keys(in)) {
				switch t, ok := in[k].(string); {
				case k == "Name" && ok:
					w.name = t
				case k == "Values":
					if w.values, err = texts(at+k, in[k], anything); err != nil {
						return err
					}
				case k == "Name":
					return msgPropertyType(at+k, in[k])
				default:
					return msgUnknownProperty(at + k)
				}
			}
			m.wildcards = append(m.wildcards, w)
			return nil
		})
	case "Metrics":
		m.named = nil
		return objects(func(at string, in obj) error {
			var n namedMetric
			for _, k := range slices.Sorted(maps.Keys(in)) {
				switch t, ok := in[k].(string); {
				case k == "MetricId" && ok:
					n.id = t
				case k == "MetricProperties":
					if n.properties, err = texts(at+k, in[k], anything); err != nil {
						return err
					}
				case k == "MetricId":
					return msgPropertyType(at+k, in[k])
				default:
					return msgUnknownProperty(at + k)
				}
			}
			m.named = append(m.named, n)
			return nil
		})
	}
	return msgUnknownProperty(name)
}

// show writes them into a resource; triggers have no Metrics.
func (m metrics) show(o obj, named bool) {
	o["MetricProperties"] = append([]string{}, m.properties...)
	if len(m.wildcards) > 0 {
		ws := []obj{}
		for _, w := range m.wildcards {
			ws = append(ws, obj{"Name": w.name, "Values": append([]string{}, w.values...)})
		}
		o["Wildcards"] = ws
	}
	if named && len(m.named) > 0 {
		ns := []obj{}
		for _, n := range m.named {
			ns = append(ns, obj{"MetricId": n.id, "MetricProperties": append([]string{}, n.properties...)})
		}
		o["Metrics"] = ns
	}
}

// parseNew takes all properties of something new: Id is what it wants to be
// called, "" = whatever.
func parseNew(body obj, parse func(name string, v any) error) (id string, err error) {
	if body == nil {
		return "", msgMalformed()
	}
	for _, name := range slices.Sorted(maps.Keys(body)) {
		v := body[name]
		switch {
		case strings.HasPrefix(name, "@odata."):
		case name == "Id":
			t, ok := v.(string)
			if !ok || t == "" || len(t) > 64 || idOf(t, 0) != t {
				return "", msgPropertyFormat(name, v)
			}
			id = t
		default:
			if err := parse(name, v); err != nil {
				return "", err
			}
		}
	}
	return id, nil
}

// newID is an id for something new. s.mu is held.
func (s *Server) newID(want, kind string, taken func(string) bool) (string, error) {
	if want != "" {
		if taken(want) {
			return "", msgExists(kind, "Id", want)
		}
		return want, nil
	}
	for {
		s.nextID++
		if id := strconv.Itoa(s.nextID); !taken(id) {
			return id, nil
		}
	}
}

// durationForm is ISO 8601 as Edm.Duration has it (OData CSDL §4.4).
var durationForm = regexp.MustCompile(`^P(?:(\d{1,4})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?)?$`)

func parseDuration(name string, v any) (time.Duration, error) {
	t, ok := v.(string)
	if !ok {
		return 0, msgPropertyType(name, v)
	}
	m := durationForm.FindStringSubmatch(t)
	if m == nil || t == "P" || strings.HasSuffix(t, "T") {
		return 0, msgPropertyFormat(name, t)
	}
	total := 0.0
	for i, unit := range []float64{86400, 3600, 60, 1} {
		if n, err := strconv.ParseFloat(m[i+1], 64); err == nil {
			total += n * unit
		}
	}
	if total > 365*86400 {
		return 0, msgOutOfRange(name, t)
	}
	return time.Duration(total * float64(time.Second)), nil
}

func isoDuration(d time.Duration) string {
	return fmt.Sprintf("PT%sS", strconv.FormatFloat(d.Seconds(), 'f', -1, 64))
}
