package bmc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// BIOS are the settings of a machine's firmware.
type BIOS struct {
	Registry   string      `json:"registry"` // that gave the types; "" when the BMC has none
	Attributes []Attribute `json:"attributes"`
}

// Attribute is one setting. Types, allowed values and bounds are the
// registry's (DSP0268, AttributeRegistry); without one, Type is that of the
// value.
type Attribute struct {
	Name     string   `json:"name"`
	Title    string   `json:"title,omitempty"` // for people
	Type     string   `json:"type"`            // "Enumeration", "String", "Integer", "Boolean", "Password"
	Value    any      `json:"value"`           // string, bool, json.Number, or nil
	Pending  any      `json:"pending,omitempty"`
	Allowed  []string `json:"allowed,omitempty"`
	Low      *float64 `json:"low,omitempty"`
	High     *float64 `json:"high,omitempty"`
	ReadOnly bool     `json:"read_only,omitempty"`
}

// BIOS reads the settings, with those that wait for the next boot.
func (c *Client) BIOS(ctx context.Context) (BIOS, error) {
	const doing = "reading the BIOS settings"
	ctx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return BIOS{}, err
	}
	defer cancel()
	b, err := c.drv.bios(ctx)
	return b, c.t.own(ctx, doing, err)
}

// SetBIOS asks for the changes of a plan, which the firmware makes at the next
// boot, and reads back that they wait for it, or are made. The plan is refused
// when the settings are no longer those that it was made from. Nothing is sent
// for a plan without changes.
func (c *Client) SetBIOS(ctx context.Context, p BIOSPlan) error {
	const doing = "setting the BIOS"
	if len(p.Changes) == 0 {
		return nil
	}
	octx, cancel, err := c.begin(ctx, doing)
	if err != nil {
		return err
	}
	defer cancel()
	now, err := c.drv.bios(octx)
	if err != nil {
		return c.t.own(octx, doing, err)
	}
	want := map[string]any{}
	for _, ch := range p.Changes {
		a := now.find(ch.Name)
		if a == nil || !sameValue(a.Value, ch.From) || a.Pending != nil && !sameValue(a.Pending, ch.Pending) {
			return c.t.fail(doing, fmt.Errorf("%s is no longer what it was when the plan was made: plan again", ch.Name))
		}
		want[ch.Name] = ch.To
	}
	if err := c.drv.setBIOS(octx, want); err != nil {
		return c.t.own(octx, doing, err)
	}
	var left []string
	err = c.wait(octx, doing, min(readBackWait, c.t.Timeout/2), func(ctx context.Context) (bool, error) {
		b, err := c.drv.bios(ctx)
		if err != nil {
			return false, c.t.own(ctx, doing, err)
		}
		left = nil
		for _, ch := range p.Changes {
			if a := b.find(ch.Name); a == nil || !sameValue(a.Pending, ch.To) && !sameValue(a.Value, ch.To) {
				left = append(left, ch.Name)
			}
		}
		return len(left) == 0, nil
	})
	if errors.Is(err, errNothing) {
		return c.t.fail(doing, fmt.Errorf("%w: %s neither changed nor waits for the next boot", errNothing, strings.Join(left, ", ")))
	}
	return err
}

// VerifyBIOS waits until every setting has the value that is wanted, as after
// the boot that makes the changes.
func (c *Client) VerifyBIOS(ctx context.Context, want map[string]any, limit time.Duration) error {
	const doing = "verifying the BIOS settings"
	var left []string
	err := c.wait(ctx, doing, limit, func(ctx context.Context) (bool, error) {
		b, err := c.BIOS(ctx)
		if err != nil {
			return false, err
		}
		p, err := PlanBIOS(b, want)
		if err != nil {
			return false, c.t.fail(doing, err)
		}
		left = nil
		for _, ch := range slices.Concat(p.Changes, p.Waiting) {
			left = append(left, ch.Name)
		}
		return len(left) == 0, nil
	})
	if errors.Is(err, errNothing) {
		return c.t.fail(doing, fmt.Errorf("%w: after %s %s still has the old value: the machine may need longer to boot, or its firmware refused it", errNothing, limit, strings.Join(left, ", ")))
	}
	return err
}

// find is an attribute by its name.
func (b BIOS) find(name string) *Attribute {
	i, ok := slices.BinarySearchFunc(b.Attributes, name, func(a Attribute, n string) int { return cmp.Compare(a.Name, n) })
	if !ok {
		return nil
	}
	return &b.Attributes[i]
}

// biosResource is what we use of Bios (DSP0268).
type biosResource struct {
	Registry   text                       `json:"AttributeRegistry"`
	Attributes map[string]json.RawMessage `json:"Attributes"`
	Settings   struct {
		Object     ref   `json:"SettingsObject"`
		ApplyTimes texts `json:"SupportedApplyTimes"`
	} `json:"@Redfish.Settings"`
}

// biosResources reads Bios and its settings resource.
func (d *redfishDriver) biosResources(ctx context.Context) (now, next biosResource, at string, err error) {
	s, _, err := d.system(ctx)
	if err != nil {
		return now, next, "", err
	}
	if at = s.Bios.path(); at == "" {
		return now, next, "", fmt.Errorf("%w: the system %s shows no BIOS settings", ErrUnsupported, s.ID)
	}
	if _, err = d.get(ctx, at, &now); err != nil {
		return now, next, at, err
	}
	if len(now.Attributes) == 0 {
		return now, next, at, fmt.Errorf("%w: its BIOS %s has no attributes; many show them only after the machine has booted once", ErrUnsupported, at)
	}
	return now, next, at, d.optional(ctx, now.Settings.Object.path(), &next) // nothing waits, and some answer 404
}

func (d *redfishDriver) bios(ctx context.Context) (BIOS, error) {
	now, next, at, err := d.biosResources(ctx)
	if err != nil {
		return BIOS{}, err
	}
	reg, err := d.biosRegistry(ctx, string(now.Registry), at)
	if err != nil {
		return BIOS{}, err
	}
	out := BIOS{Registry: reg.ID}
	for name, raw := range now.Attributes {
		a := Attribute{Name: name, Value: scalar(raw)}
		if p, ok := next.Attributes[name]; ok { // Lenovo lists every one as pending
			if v := scalar(p); !sameValue(v, a.Value) {
				a.Pending = v
			}
		}
		reg.describe(&a)
		out.Attributes = append(out.Attributes, a)
	}
	slices.SortFunc(out.Attributes, func(a, b Attribute) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// scalar is a JSON value; objects and lists are no settings, and nil.
func scalar(b json.RawMessage) any {
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return nil
	}
	switch v.(type) {
	case string, bool, json.Number:
		return v
	}
	return nil
}

// sameValue compares settings by what they say: 1 and "1" are the same.
func sameValue(a, b any) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return fmt.Sprint(a) == fmt.Sprint(b)
}

// attributeRegistry is what we use of AttributeRegistry (DSP0268).
type attributeRegistry struct {
	ID      string `json:"Id"`
	Entries struct {
		Attributes []struct {
			Name     text  `json:"AttributeName"`
			Title    text  `json:"DisplayName"`
			Type     text  `json:"Type"`
			Low      maybe `json:"LowerBound"`
			High     maybe `json:"UpperBound"`
			ReadOnly flag  `json:"ReadOnly"`
			Values   []struct {
				Name text `json:"ValueName"`
			} `json:"Value"`
		}
	} `json:"RegistryEntries"`
}

// describe adds what the registry knows.
func (r attributeRegistry) describe(a *Attribute) {
	switch a.Value.(type) {
	case bool:
		a.Type = "Boolean"
	case json.Number:
		a.Type = "Integer"
	default:
		a.Type = "String"
	}
	for _, e := range r.Entries.Attributes {
		if string(e.Name) != a.Name {
			continue
		}
		if e.Type != "" {
			a.Type = string(e.Type)
		}
		a.Title, a.Low, a.High, a.ReadOnly = string(e.Title), e.Low.v, e.High.v, e.ReadOnly.on
		for _, v := range e.Values {
			a.Allowed = append(a.Allowed, string(v.Name))
		}
		return
	}
}

// biosRegistry finds the registry that Bios names: among the service's
// registries, or where iDRAC and XCC keep theirs (quirks.go). A BMC without one
// gives an empty registry.
func (d *redfishDriver) biosRegistry(ctx context.Context, name, biosPath string) (attributeRegistry, error) {
	var reg attributeRegistry
	if name == "" {
		return reg, nil
	}
	d.mu.Lock()
	kept := d.registry
	d.mu.Unlock()
	if kept != nil {
		return *kept, nil
	}
	var places []string
	if p := d.root.Registries.path(); p != "" {
		var coll struct{ Members refs }
		_, err := d.get(ctx, p, &coll)
		if err := d.absent(ctx, err); err != nil {
			return reg, err
		}
		slices.SortStableFunc(coll.Members, func(a, b ref) int { return cmp.Compare(registryRank(name, a), registryRank(name, b)) })
		for _, m := range coll.Members {
			if registryRank(name, m) == noRegistry {
				continue
			}
			var file struct{ Location []registryFile }
			_, err := d.get(ctx, m.path(), &file)
			if err := d.absent(ctx, err); err != nil {
				return reg, err
			}
			slices.SortStableFunc(file.Location, func(a, b registryFile) int { return cmp.Compare(a.foreign(), b.foreign()) })
			for _, l := range file.Location {
				places = append(places, l.URI.path())
			}
		}
	}
	for _, p := range append(places, registryPlaces(biosPath, name)...) {
		if p == "" {
			continue
		}
		var found attributeRegistry
		_, err := d.get(ctx, p, &found)
		if err := d.absent(ctx, err); err != nil {
			return reg, err
		}
		if len(found.Entries.Attributes) > 0 {
			reg = found
			break
		}
	}
	d.mu.Lock()
	d.registry = &reg
	d.mu.Unlock()
	return reg, nil
}

// registryFile is where a MessageRegistryFile says that a registry is.
type registryFile struct {
	URI      ref `json:"Uri"` // a path; iLO writes an object around it
	Language text
}

// foreign orders languages: English, none said, others.
func (f registryFile) foreign() int {
	switch {
	case strings.HasPrefix(strings.ToLower(string(f.Language)), "en"):
		return 0
	case f.Language == "" || f.Language == "default":
		return 1
	}
	return 2
}

const noRegistry = 9

// registryRank is how well a member of Registries fits the name that Bios gives:
// exactly, with or without a version, or as a registry of BIOS attributes at all.
func registryRank(name string, m ref) int {
	name, base := strings.ToLower(name), strings.ToLower(path.Base(strings.TrimRight(m.path(), "/")))
	stem := func(s string) string { s, _, _ = strings.Cut(s, "."); return s }
	switch {
	case base == name:
		return 0
	case strings.HasPrefix(base, name) || strings.HasPrefix(name, base):
		return 1
	case stem(base) == stem(name):
		return 2
	case strings.HasPrefix(base, "biosattributeregistry"):
		return 3
	}
	return noRegistry
}

// absent passes over what a BMC does not show; the end of the session or of
// the context is kept.
func (d *redfishDriver) absent(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil && statusOf(err) != http.StatusUnauthorized {
		if err != nil {
			d.log.Debug("the BMC does not show a registry", "err", err)
		}
		return nil
	}
	return err
}

// setBIOS writes the settings resource.
func (d *redfishDriver) setBIOS(ctx context.Context, want map[string]any) error {
	now, _, at, err := d.biosResources(ctx)
	if err != nil {
		return err
	}
	to := now.Settings.Object.path()
	if to == "" {
		to = at // some take changes there; what it shows afterwards says whether it did
	}
	body := map[string]any{"Attributes": want}
	if slices.Contains(now.Settings.ApplyTimes, "OnReset") { // iDRAC makes its job of it (DSP0266 §11)
		body["@Redfish.SettingsApplyTime"] = map[string]string{"@odata.type": "#Settings.v1_3_3.PreferredApplyTime", "ApplyTime": "OnReset"}
	}
	return d.change(ctx, to, body)
}

func (d *ipmiDriver) bios(context.Context) (BIOS, error) {
	return BIOS{}, d.t.fail("reading the BIOS settings", fmt.Errorf("%w: IPMI has none; use redfish", ErrUnsupported))
}

func (d *ipmiDriver) setBIOS(context.Context, map[string]any) error {
	return d.t.fail("setting the BIOS", fmt.Errorf("%w: IPMI has no BIOS settings; use redfish", ErrUnsupported))
}
