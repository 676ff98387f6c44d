package bmc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Media is a virtual drive of a BMC (DSP0268, VirtualMedia).
type Media struct {
	Slot     string   `json:"slot"`
	Types    []string `json:"types"` // "CD", "DVD", "USBStick", ...
	Image    string   `json:"image"` // URI, without its password; "" = empty
	Inserted bool     `json:"inserted"`

	path   string
	insert string // target of InsertMedia; "" = by PATCH
	eject  string
}

// virtualMedia is what we use of VirtualMedia (DSP0268).
type virtualMedia struct {
	ID       text  `json:"Id"`
	Path     text  `json:"@odata.id"`
	Types    texts `json:"MediaTypes"`
	Image    text
	Inserted flag
	Actions  struct {
		Insert struct {
			Target string `json:"target"`
		} `json:"#VirtualMedia.InsertMedia"`
		Eject struct {
			Target string `json:"target"`
		} `json:"#VirtualMedia.EjectMedia"`
	}
}

// onlyRedfish is a refusal of an IPMI driver.
func (c *Client) onlyRedfish(doing string) (*redfishDriver, error) {
	d, ok := c.drv.(*redfishDriver)
	if !ok {
		return nil, c.t.fail(doing, fmt.Errorf("%w over IPMI: set the BMC's protocol to redfish", ErrUnsupported))
	}
	return d, nil
}

// beginRedfish is begin for what only Redfish can do.
func (c *Client) beginRedfish(ctx context.Context, doing string) (*redfishDriver, context.Context, context.CancelFunc, error) {
	d, err := c.onlyRedfish(doing)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel, err := c.begin(ctx, doing)
	return d, ctx, cancel, err
}

// Media lists the virtual drives.
func (c *Client) Media(ctx context.Context) ([]Media, error) {
	const doing = "reading the virtual drives"
	d, ctx, cancel, err := c.beginRedfish(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer cancel()
	ms, err := d.media(ctx)
	for i := range ms {
		ms[i].Image = redacted(ms[i].Image)
	}
	return ms, c.t.own(ctx, doing, err)
}

// redacted is a URI without its password, for people.
func redacted(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return uriUser.ReplaceAllString(uri, "//"+secret+"@")
	}
	if _, ok := u.User.Password(); !ok {
		return uri
	}
	return u.Redacted()
}

// InsertMedia puts an image, which the BMC fetches from uri, into the virtual
// CD drive, and reads it back. What is in the drive already must be ejected
// first.
func (c *Client) InsertMedia(ctx context.Context, uri string) error {
	doing := "inserting " + redacted(uri)
	d, err := c.onlyRedfish(doing)
	if err != nil {
		return err
	}
	if u, err := url.Parse(uri); err != nil || u.Scheme == "" || u.Host == "" {
		return c.t.fail(doing, errors.New("it is not a URI that a BMC can fetch: give one such as http://HOST/image.iso"))
	}
	octx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	m, err := d.drive(octx)
	if err != nil {
		return c.t.own(octx, doing, err)
	}
	if m.Inserted && m.Image == uri {
		return nil
	}
	if m.Inserted {
		return c.t.fail(doing, fmt.Errorf("the drive %s holds %s: eject it first", m.Slot, redacted(m.Image)))
	}
	if err := d.insert(octx, m, uri); err != nil {
		return c.t.own(octx, doing, err)
	}
	return c.mediaFollows(octx, d, doing, func(m Media) bool { return m.Inserted && m.Image != "" })
}

// EjectMedia empties the virtual CD drive, and reads it back.
func (c *Client) EjectMedia(ctx context.Context) error {
	const doing = "ejecting the virtual medium"
	d, err := c.onlyRedfish(doing)
	if err != nil {
		return err
	}
	octx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	m, err := d.drive(octx)
	if err != nil || !m.Inserted {
		return c.t.own(octx, doing, err)
	}
	if m.eject != "" {
		_, err = d.post(octx, m.eject, map[string]any{})
	} else {
		err = d.change(octx, m.path, map[string]any{"Image": nil, "Inserted": false})
	}
	if err != nil {
		return c.t.own(octx, doing, err)
	}
	return c.mediaFollows(octx, d, doing, func(m Media) bool { return !m.Inserted })
}

// mediaFollows waits until the drive shows what was asked for.
func (c *Client) mediaFollows(ctx context.Context, d *redfishDriver, doing string, ok func(Media) bool) error {
	err := c.wait(ctx, doing, min(readBackWait, c.t.Timeout/2), func(ctx context.Context) (bool, error) {
		m, err := d.drive(ctx)
		return err == nil && ok(m), c.t.own(ctx, doing, err)
	})
	if errors.Is(err, errNothing) {
		return c.t.fail(doing, fmt.Errorf("%w: the drive shows no change", errNothing))
	}
	return err
}

// media reads the drives of the host, or of its manager.
func (d *redfishDriver) media(ctx context.Context) ([]Media, error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return nil, err
	}
	managers := s.Links.ManagedBy
	if len(managers) == 0 {
		p, err := d.managerOf(ctx, s)
		if err != nil && !errors.Is(err, ErrUnsupported) {
			return nil, err
		}
		managers = refs{{id: p}}
	}
	r := &reader{redfishDriver: d, ctx: ctx}
	var out []Media
	look := func(from ref) {
		for _, v := range list[virtualMedia](r, from) {
			m := Media{Slot: string(v.ID), Types: v.Types, Image: v.Image.known(), path: localPath(string(v.Path)),
				insert: localPath(v.Actions.Insert.Target), eject: localPath(v.Actions.Eject.Target)}
			m.Inserted = v.Inserted.on || !v.Inserted.set && m.Image != ""
			out = append(out, m)
		}
	}
	look(s.VirtualMedia)
	for _, p := range managers {
		if len(out) > 0 {
			break // the manager's are the same drives
		}
		var x struct{ VirtualMedia ref }
		r.one(p, &x)
		look(x.VirtualMedia)
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case len(out) > 0:
		return out, nil
	case len(r.missing) > 0:
		return nil, fmt.Errorf("%w: it shows no virtual media (%s); some makers sell it with a licence", ErrUnsupported, strings.Join(r.missing, "; "))
	}
	return nil, fmt.Errorf("%w: it shows no virtual media; some makers sell it with a licence", ErrUnsupported)
}

// drive is the one for CDs: one that holds something first.
func (d *redfishDriver) drive(ctx context.Context) (Media, error) {
	all, err := d.media(ctx)
	if err != nil {
		return Media{}, err
	}
	isCD := func(m Media) bool { return slices.Contains(m.Types, "CD") || slices.Contains(m.Types, "DVD") }
	if i := slices.IndexFunc(all, func(m Media) bool { return isCD(m) && m.Inserted }); i >= 0 {
		return all[i], nil
	}
	if i := slices.IndexFunc(all, isCD); i >= 0 {
		return all[i], nil
	}
	return Media{}, fmt.Errorf("%w: none of its %d virtual drives is a CD drive", ErrUnsupported, len(all))
}

// insert sends the action with all that newer firmware wants, then with the
// image alone, which older firmware takes, then with the protocol, which AMI's
// wants.
func (d *redfishDriver) insert(ctx context.Context, m Media, uri string) error {
	if m.insert == "" {
		return d.change(ctx, m.path, map[string]any{"Image": uri, "Inserted": true})
	}
	protocol, _, _ := strings.Cut(uri, ":")
	var first error
	for _, body := range []map[string]any{
		{"Image": uri, "Inserted": true, "WriteProtected": true},
		{"Image": uri},
		{"Image": uri, "TransferProtocolType": strings.ToUpper(protocol)},
		{"Image": uri, "TransferProtocolType": strings.ToUpper(protocol), "TransferMethod": "Stream", "Inserted": true, "WriteProtected": true},
	} {
		_, err := d.post(ctx, m.insert, body)
		if statusOf(err) != http.StatusBadRequest {
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}
