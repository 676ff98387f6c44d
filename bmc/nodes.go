package bmc

import (
	"context"
	"path"
)

// Node is one of the machines behind a BMC: most have one.
type Node struct {
	System string `json:"system"` // the last part of its system's URI, for Target.System
	Name   string `json:"name,omitempty"`
	Serial string `json:"serial,omitempty"`
	SKU    string `json:"sku,omitempty"`
	UUID   string `json:"uuid,omitempty"`
	Model  string `json:"model,omitempty"`
}

// Nodes are the machines behind the BMC, whichever of them Target.System names:
// of its systems those that look most like a machine, so that a baseboard of
// GPUs beside its host is none.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	const doing = "reading its computer systems"
	d, ctx, cancel, err := c.beginRedfish(ctx, doing)
	if err != nil {
		return nil, err
	}
	defer cancel()
	all, missing, err := d.systems(ctx)
	if err != nil {
		return nil, c.t.own(ctx, doing, err)
	}
	hosts := likeliest(all)
	if len(hosts) == 0 {
		_, err := d.chosen(all, missing) // says why there is none
		return nil, c.t.own(ctx, doing, err)
	}
	out := make([]Node, len(hosts))
	for i, s := range hosts {
		out[i] = Node{System: path.Base(localPath(s.ID)), Name: string(s.Name), Serial: string(s.SerialNumber), SKU: string(s.SKU), UUID: string(s.UUID), Model: string(s.Model)}
	}
	return out, nil
}
