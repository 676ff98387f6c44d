package bmc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"path"
	"strings"
	"time"
)

// UpdateSource is a firmware image: a file that is pushed to the BMC, or a URI
// from which the BMC fetches it.
type UpdateSource struct {
	Name    string                            // the file's name, for the BMC
	Open    func() (io.ReadSeekCloser, error) // nil: URI is used
	URI     string
	Targets []string // ids of the firmware inventory that it is for; none = the BMC finds out
}

// UpdateState is how far an update is.
type UpdateState struct {
	Sent, Size int64  // bytes pushed; Size 0 = not known
	Task       string // "Running", "Completed", ...; "" while it is sent
	Percent    int    // of the task
	Message    string
}

// Update is what an update changed.
type Update struct {
	Before []Firmware `json:"before"`
	After  []Firmware `json:"after"`
	// Pending: the task ended, and what is installed reads as before: many
	// components start their new firmware at the next restart.
	Pending bool `json:"pending"`
}

// Changed are the components whose version is another than before.
func (u Update) Changed() (out []string) {
	was := map[string]string{}
	for _, f := range u.Before {
		was[f.ID] = f.Version
	}
	for _, f := range u.After {
		if v, ok := was[f.ID]; !ok || v != f.Version {
			out = append(out, fmt.Sprintf("%s %s → %s", f.ID, v, f.Version))
		}
	}
	return out
}

// updateWait bounds an update: BMCs take up to half an hour for their own.
const updateWait = 60 * time.Minute

// UpdateFirmware installs an image and waits for the BMC's task to end, then
// reads the versions again. progress may be nil. Nothing is installed again
// when a wait is broken off: the task goes on in the BMC.
func (c *Client) UpdateFirmware(ctx context.Context, src UpdateSource, progress func(UpdateState)) (Update, error) {
	const doing = "updating firmware"
	d, err := c.onlyRedfish(doing)
	if err != nil {
		return Update{}, err
	}
	if progress == nil {
		progress = func(UpdateState) {}
	}
	ctx, cancel := context.WithTimeout(ctx, updateWait)
	defer cancel()
	if err := d.ready(ctx); err != nil {
		return Update{}, c.t.own(ctx, doing, err)
	}
	u, err := d.update(ctx, src, c.poll, progress)
	return u, c.t.own(ctx, doing, err)
}

// updateService is what we use of UpdateService (DSP0268).
type updateService struct {
	FirmwareInventory    ref
	HTTPPushURI          text `json:"HttpPushUri"`
	MultipartHTTPPushURI text `json:"MultipartHttpPushUri"`
	MaxImageSizeBytes    number
	Actions              struct {
		Simple struct {
			Target    string `json:"target"`
			Protocols texts  `json:"TransferProtocol@Redfish.AllowableValues"`
		} `json:"#UpdateService.SimpleUpdate"`
	}
}

func (d *redfishDriver) update(ctx context.Context, src UpdateSource, poll time.Duration, progress func(UpdateState)) (Update, error) {
	var u Update
	if d.root.UpdateService.path() == "" {
		return u, fmt.Errorf("%w: its Redfish service has no UpdateService", ErrUnsupported)
	}
	var svc updateService
	if _, err := d.get(ctx, d.root.UpdateService.path(), &svc); err != nil {
		return u, err
	}
	var err error
	if u.Before, err = d.versions(ctx, svc); err != nil {
		return u, err
	}
	var targets []string
	for _, id := range src.Targets {
		targets = append(targets, strings.TrimRight(svc.FirmwareInventory.path(), "/")+"/"+id)
	}
	var location string
	if src.Open == nil {
		location, err = d.simpleUpdate(ctx, svc, src.URI, targets)
	} else {
		location, err = d.push(ctx, svc, src, targets, progress)
	}
	if err != nil {
		return u, err
	}
	if err := d.followTask(ctx, location, poll, progress); err != nil {
		return u, err
	}
	if u.After, err = d.versions(ctx, svc); err != nil {
		return u, fmt.Errorf("the update ended, and the versions cannot be read: %w: a BMC that updated itself starts anew; ask it again in some minutes", err)
	}
	u.Pending = len(u.Changed()) == 0
	return u, nil
}

func (d *redfishDriver) versions(ctx context.Context, svc updateService) ([]Firmware, error) {
	if svc.FirmwareInventory.path() == "" {
		return nil, nil
	}
	raw, _, err := d.members(ctx, svc.FirmwareInventory.path())
	if err != nil {
		return nil, err
	}
	all, err := decode[softwareInventory](raw)
	var out []Firmware
	for _, s := range all {
		if f := s.firmware(); f.Version != "" {
			out = append(out, f)
		}
	}
	return out, err
}

func (d *redfishDriver) simpleUpdate(ctx context.Context, svc updateService, uri string, targets []string) (string, error) {
	to := localPath(svc.Actions.Simple.Target)
	if to == "" {
		return "", fmt.Errorf("%w: it has no SimpleUpdate; give a file, which is pushed", ErrUnsupported)
	}
	body := map[string]any{"ImageURI": uri}
	scheme, _, _ := strings.Cut(uri, "://")
	body["TransferProtocol"] = strings.ToUpper(scheme)
	if len(targets) > 0 {
		body["Targets"] = targets
	}
	a, err := d.do(ctx, http.MethodPost, to, body, nil)
	if err != nil {
		return "", err
	}
	return taskOf(a), nil
}

// push sends the file: in parts where the BMC takes them (DSP0266 §12.6.2), as
// it is otherwise.
func (d *redfishDriver) push(ctx context.Context, svc updateService, src UpdateSource, targets []string, progress func(UpdateState)) (string, error) {
	f, err := src.Open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	if m := int64(svc.MaxImageSizeBytes); m > 0 && size > m {
		return "", fmt.Errorf("the image has %d bytes, and the BMC takes %d at most", size, m)
	}
	body := io.Reader(&counted{r: f, size: size, progress: progress})
	kind, length, to := "application/octet-stream", size, localPath(string(svc.HTTPPushURI))
	if p := localPath(string(svc.MultipartHTTPPushURI)); p != "" {
		var head, tail bytes.Buffer
		mw := multipart.NewWriter(&head)
		par := map[string]any{}
		if len(targets) > 0 {
			par["Targets"] = targets
		}
		text, err := json.Marshal(par)
		if err != nil {
			return "", err
		}
		w, err := mw.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="UpdateParameters"`}, "Content-Type": {"application/json"}})
		if err == nil {
			_, err = w.Write(text)
		}
		if err == nil {
			_, err = mw.CreatePart(textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name="UpdateFile"; filename=%q`, path.Base(src.Name))}, "Content-Type": {"application/octet-stream"}})
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&tail, "\r\n--%s--\r\n", mw.Boundary())
		// BMCs want the length beforehand: no chunks.
		length = int64(head.Len()) + size + int64(tail.Len())
		body, kind, to = io.MultiReader(&head, body, &tail), mw.FormDataContentType(), p
	} else if len(targets) > 0 {
		return "", fmt.Errorf("%w: it takes an image without saying what for: leave the targets out", ErrUnsupported)
	}
	if to == "" {
		return "", fmt.Errorf("%w: it takes no pushed images; give a URI from which it can fetch one", ErrUnsupported)
	}
	a, err := d.upload(ctx, to, kind, body, length)
	if err != nil {
		return "", err
	}
	return taskOf(a), nil
}

// counted tells how much of a file was read.
type counted struct {
	r        io.Reader
	n, size  int64
	progress func(UpdateState)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.progress(UpdateState{Sent: c.n, Size: c.size})
	return n, err
}

// taskOf is where an answer says that its task is: the monitor in Location, or
// the Task in the body.
func taskOf(a answer) string {
	if p := localPath(a.header.Get("Location")); p != "" {
		return p
	}
	var t ref
	if json.Unmarshal(a.body, &t) == nil {
		return t.path()
	}
	return ""
}

// task is what we use of Task (DSP0268).
type task struct {
	State    text   `json:"TaskState"`
	Status   text   `json:"TaskStatus"`
	Percent  number `json:"PercentComplete"`
	Messages []struct {
		Message, MessageID text
	}
}

// ended and failed by TaskState (DSP0268, Task.TaskState).
var taskEnded = map[string]bool{"Completed": true, "Killed": true, "Exception": true, "Cancelled": true}

// followTask waits for a task, by its monitor or by itself, until it ended. A
// BMC that starts anew after its own update stops answering: that is no
// failure of the update until it does not come back.
func (d *redfishDriver) followTask(ctx context.Context, location string, poll time.Duration, progress func(UpdateState)) error {
	if location == "" {
		return nil // it was done at once
	}
	silent := 0
	for {
		var t task
		a, err := d.do(ctx, http.MethodGet, location, nil, nil)
		switch s := statusOf(err); {
		case err == nil:
			silent = 0
			if len(a.body) == 0 { // 204: the monitor's task is over
				progress(UpdateState{Task: "Completed", Percent: 100})
				return nil
			}
			if unmarshal(a.body, &t) != nil || t.State == "" {
				return nil // the answer of the request itself: it is over
			}
			st := UpdateState{Task: string(t.State), Percent: int(t.Percent)}
			if n := len(t.Messages); n > 0 {
				st.Message = d.quote(string(t.Messages[n-1].Message))
			}
			progress(st)
			if !taskEnded[st.Task] {
				break
			}
			if st.Task != "Completed" || t.Status == "Critical" {
				return fmt.Errorf("the BMC's task ended as %s: %s", st.Task, cmp.Or(st.Message, "it says no more; look at its log"))
			}
			return nil
		case s == http.StatusUnauthorized:
			return fmt.Errorf("%w: it does so when it restarts with new firmware of its own: look at its version in some minutes", ErrSession)
		case s == http.StatusNotFound || s == http.StatusGone:
			return nil // monitors vanish when their task is over
		case s >= 400 && s < 500 || ctx.Err() != nil:
			return err
		default:
			if silent++; silent > 60 {
				return err
			}
		}
		timer := time.NewTimer(4 * poll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("no longer waited for; the task goes on in the BMC: %w", ctx.Err())
		case <-timer.C:
		}
	}
}

// upload posts a stream whose length is known.
func (d *redfishDriver) upload(ctx context.Context, to, kind string, body io.Reader, length int64) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+hostPort(d.t.Address)+to, io.NopCloser(body))
	if err != nil {
		return answer{}, err
	}
	req.ContentLength = length
	d.head(req)
	req.Header.Set("Content-Type", kind)
	resp, err := d.hc.Do(req)
	if err != nil {
		return answer{}, d.tells(err)
	}
	b, err := readAnswer(resp)
	if err != nil {
		return answer{}, err
	}
	if resp.StatusCode >= 300 {
		return answer{}, d.refusedUpload(resp.StatusCode, b)
	}
	return answer{resp.Header, b}, nil
}

// refusedUpload is the BMC's refusal, by its own words.
func (d *redfishDriver) refusedUpload(status int, body []byte) error {
	e := &answerError{what: errors.New("the BMC did not take the image"), status: status}
	var rf *refusal
	if errors.As(d.refusal(status, body), &rf) {
		e.answer = rf.said
	}
	return e
}
