package web

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/fettle-dev/fettle/state"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static/*
var staticFiles embed.FS

// cookieName is the cookie that holds a token for the pages.
const cookieName = "fettle_token"

// How many events pages show, the newest.
const (
	pageEventsMax    = 200
	machineEventsMax = 100
)

// pages are the templates, each with the layout.
type pages struct {
	byName map[string]*template.Template
}

func newPages() (*pages, error) {
	p := &pages{byName: map[string]*template.Template{}}
	for _, name := range []string{"machines", "machine", "discovered", "events", "login", "problem"} {
		t, err := template.New("layout.html").Funcs(template.FuncMap{
			"bytes": bytesText, "percent": percent, "span": span, "tone": tone, "stamp": stamp, "iso": iso,
		}).ParseFS(templateFiles, "templates/layout.html", "templates/parts.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("web: %w", err)
		}
		p.byName[name] = t
	}
	return p, nil
}

// page is what every template gets.
type page struct {
	Title string
	Site  string
	Who   Identity
	Now   time.Time
	Nav   string // which entry is the current one
	Live  *live
	Body  any
}

// live makes a page refresh itself when an event comes.
type live struct {
	After   int64
	Machine string
}

func (s *Server) render(w http.ResponseWriter, r *http.Request, status int, name string, p page) error {
	p.Site, p.Who, p.Now = s.c.Site().Name, identity(r), s.c.Now()
	var b bytes.Buffer
	if err := s.pages.byName[name].Execute(&b, p); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, err := w.Write(b.Bytes())
	return ignoreGone(err)
}

// count is how many machines are in one kind of phase.
type count struct {
	Label, Tone string
	N           int
}

func (s *Server) pageMachines(w http.ResponseWriter, r *http.Request) error {
	after, err := s.c.Store.LastSeq(r.Context()) // before what is shown: an event between the two refreshes once more
	if err != nil {
		return err
	}
	ms, err := s.machines(r)
	if err != nil {
		return err
	}
	counts := []count{{"ready", "good", 0}, {"at work", "busy", 0}, {"failed", "bad", 0}, {"idle", "idle", 0}}
	for _, m := range ms {
		for i := range counts {
			if counts[i].Tone == tone(m.Status.Phase) {
				counts[i].N++
			}
		}
	}
	return s.render(w, r, http.StatusOK, "machines", page{
		Title: "Machines", Nav: "machines", Live: &live{After: after},
		Body: struct {
			Counts   []count
			Machines []Machine
		}{counts, ms},
	})
}

// spent is the time in one phase.
type spent struct {
	Phase   state.Phase
	Seconds float64
}

// spentIn lists seconds in the order of a good run.
func spentIn(seconds map[state.Phase]float64) (list []spent, most float64) {
	order := []state.Phase{state.Unknown, state.Discovered, state.PoweringOn, state.Firmware, state.Netboot, state.Agent, state.Inspected,
		state.Deploying, state.Verifying, state.Seeding, state.Restarting, state.FirstBoot}
	for _, p := range order {
		if s, ok := seconds[p]; ok {
			list = append(list, spent{p, s})
			most = max(most, s)
		}
	}
	return list, most
}

func (s *Server) pageMachine(w http.ResponseWriter, r *http.Request) error {
	name := s.nameOf(r.PathValue("name"))
	after, err := s.c.Store.LastSeq(r.Context())
	if err != nil {
		return err
	}
	m, err := s.machine(r, name)
	if err != nil {
		return err
	}
	events, err := s.c.Store.Events(r.Context(), state.Query{Machine: name, Limit: machineEventsMax})
	if err != nil {
		return err
	}
	slices.Reverse(events)
	why, err := s.why(r, name)
	if err != nil {
		return err
	}
	list, most := spentIn(m.Status.Seconds)
	return s.render(w, r, http.StatusOK, "machine", page{
		Title: name, Nav: "machines", Live: &live{After: after, Machine: name},
		Body: struct {
			Machine Machine
			Why     []string
			Events  []state.Event
			Spent   []spent
			Most    float64
		}{m, why.Sentences, events, list, most},
	})
}

func (s *Server) pageEvents(w http.ResponseWriter, r *http.Request) error {
	after, err := s.c.Store.LastSeq(r.Context())
	if err != nil {
		return err
	}
	events, err := s.c.Store.Events(r.Context(), state.Query{Limit: pageEventsMax})
	if err != nil {
		return err
	}
	slices.Reverse(events)
	return s.render(w, r, http.StatusOK, "events", page{Title: "Events", Nav: "events", Live: &live{After: after}, Body: events})
}

// problemPage answers a page's request with err; who is not signed in is led
// to the login page.
func (s *Server) problemPage(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	s.note(r, p)
	if p.Status == http.StatusUnauthorized && r.Method == http.MethodGet {
		http.Redirect(w, r, "/login", http.StatusSeeOther)
		return
	}
	if err := s.render(w, r, p.Status, "problem", page{Title: p.Title, Body: p}); err != nil {
		s.log.Error("page failed", "error", err)
	}
}

func (s *Server) pageLogin(w http.ResponseWriter, r *http.Request) error {
	return s.render(w, r, http.StatusOK, "login", page{Title: "Sign in", Body: ""})
}

func (s *Server) postLogin(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return problem(http.StatusBadRequest, "", "the form cannot be read: %v", err)
	}
	cookie := &http.Cookie{
		Name: cookieName, Value: strings.TrimSpace(r.PostForm.Get("token")), Path: "/",
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	}
	try := r.Clone(r.Context())
	try.Header = http.Header{"Authorization": {"Bearer " + cookie.Value}}
	if _, err := s.c.Authenticate(try); err != nil {
		if !errors.Is(err, ErrNobody) {
			return err
		}
		return s.render(w, r, http.StatusUnauthorized, "login", page{Title: "Sign in", Body: "No token like that is known."})
	}
	http.SetCookie(w, cookie)
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

func (s *Server) postLogout(w http.ResponseWriter, r *http.Request) error {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/login", http.StatusSeeOther)
	return nil
}

func (s *Server) getStatic(w http.ResponseWriter, r *http.Request) error {
	name := path.Join("static", path.Base(r.PathValue("file")))
	if _, err := fs.Stat(staticFiles, name); err != nil {
		return errNoRoute
	}
	w.Header().Set("Cache-Control", "private, max-age=300")
	http.ServeFileFS(w, r, staticFiles, name)
	return nil
}

// tone is how a phase is coloured.
func tone(p state.Phase) string {
	switch p {
	case state.Ready:
		return "good"
	case state.Failed:
		return "bad"
	case state.Unknown, state.Discovered, state.Inspected, "":
		return "idle"
	case state.PoweringOn, state.Firmware, state.Netboot, state.Agent, state.Deploying, state.Verifying,
		state.Seeding, state.Restarting, state.FirstBoot:
		return "busy"
	default:
		return "busy"
	}
}

func percent(p *state.ProgressData) int {
	if p == nil || p.Total <= 0 {
		return 0
	}
	return int(min(100, max(0, p.Done*100/p.Total)))
}

// bytesText is a size for people.
func bytesText(n int64) string {
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// span is how long ago t was, for people.
func span(now, t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	d := now.Sub(t)
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
func iso(t time.Time) string   { return t.UTC().Format(time.RFC3339) }
