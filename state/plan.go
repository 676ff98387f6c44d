package state

import (
	"errors"

	"github.com/fettle-dev/fettle/site"
)

// ErrPlanChanged says that what a plan would do is no longer what was shown
// to the person who approved it: the site, a machine or an image changed.
var ErrPlanChanged = errors.New("the plan has changed since it was shown: run fettle plan again and approve the new one")

// Plan is what a deploy would do, shown before it is done. Digest binds it: a
// deploy names the digest that was approved, and is refused with
// [ErrPlanChanged] when the same plan made again has another one.
type Plan struct {
	Digest   string        `json:"digest"`
	Revision site.Revision `json:"revision"`
	Machines []MachinePlan `json:"machines"`
}

// MachinePlan is what a deploy would do to one machine.
type MachinePlan struct {
	Machine     string    `json:"machine"`
	Disk        PlanDisk  `json:"disk"`             // is wiped
	Mirror      *PlanDisk `json:"mirror,omitempty"` // too: RAID 1 of both
	Image       string    `json:"image"`
	ImageDigest string    `json:"image_digest"`
	Reboots     bool      `json:"reboots"`
	Phase       Phase     `json:"phase"`             // now
	Changes     []string  `json:"changes,omitempty"` // one sentence each
}

// PlanDisk is a disk that a plan would wipe.
type PlanDisk struct {
	Serial string `json:"serial"`
	Model  string `json:"model"`
	Bytes  int64  `json:"bytes"`
}
