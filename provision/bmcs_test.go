package provision

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fettle-dev/fettle/bmc"
	"github.com/fettle-dev/fettle/site"
	"github.com/fettle-dev/fettle/state"
)

// servedBMCs are those of a site whose BMCs all say no, in these words.
func servedBMCs(t *testing.T, no error, now func() time.Time) (b *BMCs, events *[]state.Event, dir string) {
	t.Helper()
	events, dir = &[]state.Event{}, t.TempDir()
	b, err := NewBMCs(BMCsConfig{
		Site:  func() *site.Site { return &site.Site{Name: "s", Machines: []site.Machine{{Name: "gpu-01"}}} },
		Turns: NewTurns(now, nil), Dir: dir, Now: now,
		Append: func(_ context.Context, es ...state.Event) (int64, error) {
			*events = append(*events, es...)
			return int64(len(*events)), nil
		},
		Target: func(site.Machine) (bmc.Target, error) { return bmc.Target{}, no },
	})
	if err != nil {
		t.Fatal(err)
	}
	return b, events, dir
}

// TestBMCSecrets: events have no password of a URI, however it is written, nor
// from the words of a BMC that repeats it.
func TestBMCSecrets(t *testing.T) {
	for _, tc := range []struct{ name, op, args, want string }{
		{"a URI", "media-insert", `{"uri": "http://u:hunter2@files.example.org/a.iso"}`, `{"uri":"http://[secret]@files.example.org/a.iso"}`},
		{"an @ in the password", "media-insert", `{"uri": "http://u:hun@hunter2@files.example.org/a@b.iso"}`, `{"uri":"http://[secret]@files.example.org/a@b.iso"}`},
		{"escaped slashes", "media-insert", `{"uri": "http:\/\/u:hunter2@files.example.org\/a.iso"}`, `{"uri":"http://[secret]@files.example.org/a.iso"}`},
		{"escaped otherwise", "firmware-update", `{"uri": "http:\u002f\u002fu:hunter2@files.example.org/a.bin", "targets": ["x"]}`, `{"targets":["x"],"uri":"http://[secret]@files.example.org/a.bin"}`},
		{"what a BIOS will have", "bios-apply", `{"plans": {"gpu-01": {"changes": [{"name": "Delay", "from": 1, "to": 30}], "waiting": null, "same": null, "want": {}}}, "restart": true}`, `{"restart":true,"set":{"Delay":30}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, events, _ := servedBMCs(t, errors.New("it cannot reach http://u:hun@hunter2@files.example.org/a.iso"), nil)
			req := state.BMCRequest{Machines: []string{"gpu-01"}, Args: json.RawMessage(tc.args), Yes: true}
			if err := b.Operate(t.Context(), "user:alice", tc.op, req, func(state.BMCStep) {}); err != nil {
				t.Fatal(err)
			}
			if len(*events) != 2 {
				t.Fatalf("%d events; want before and after", len(*events))
			}
			var d state.BMCData
			if err := json.Unmarshal((*events)[0].Data, &d); err != nil || string(d.Args) != tc.want {
				t.Errorf("arguments in the event = %s, %v; want %s", d.Args, err, tc.want)
			}
			for _, e := range *events {
				if all := e.Text + string(e.Data); strings.Contains(all, "hunter2") {
					t.Errorf("a password is in an event: %s", all)
				}
			}
			if last := (*events)[1].Text; !strings.Contains(last, "it cannot reach http://[secret]@files.example.org/a.iso") {
				t.Errorf("the last event says %s; want why", last)
			}
		})
	}
}

// TestImages: no more images are kept than that, those that nobody names go in
// time, and one that two operations name stays until both have ended.
func TestImages(t *testing.T) {
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC)
	b, _, dir := servedBMCs(t, errors.New("no"), func() time.Time { return now })
	files := func() int {
		left, err := filepath.Glob(filepath.Join(dir, "firmware-*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(left)
	}
	var ids []string
	for range maxImages {
		id, err := b.Upload(strings.NewReader("image"))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if _, err := b.Upload(strings.NewReader("image")); err == nil || files() != maxImages {
		t.Errorf("Upload() of one more = %v, %d files; want an error and %d", err, files(), maxImages)
	}
	args, err := json.Marshal(bmc.FirmwareOrder{File: ids[0]})
	if err != nil {
		t.Fatal(err)
	}
	open, done, err := b.images.of(bmc.OpUpdateFirmware.Task(), args)
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := b.images.of(bmc.OpUpdateFirmware.Task(), args)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(imageKept + time.Second)
	id, err := b.Upload(strings.NewReader("image"))
	if err != nil || files() != 2 {
		t.Errorf("Upload() an hour later = %v, %d files; want it and the one that is installed", err, files())
	}
	other()
	if f, err := open(); err != nil {
		t.Errorf("the image while it is installed: %v", err)
	} else {
		f.Close()
	}
	if done(); files() != 1 {
		t.Errorf("%d files once it was installed; want the other one", files())
	}
	if _, err := b.Upload(io.MultiReader(strings.NewReader("half"), broken{})); !errors.Is(err, os.ErrClosed) || files() != 1 {
		t.Errorf("Upload() that breaks off = %v, %d files; want the error and no file", err, files())
	}
	if err := b.Sweep(); err != nil || files() != 0 {
		t.Errorf("Sweep() = %v, %d files left, one of them %s; want none", err, files(), id)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, os.ErrClosed }
