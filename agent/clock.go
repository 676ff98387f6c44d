package agent

import (
	"time"

	"golang.org/x/sys/unix"
)

// SystemClock is the kernel's clock.
type SystemClock struct{}

// Now is the current time.
func (SystemClock) Now() time.Time { return time.Now() }

// Set sets the kernel's clock; it needs CAP_SYS_TIME.
func (SystemClock) Set(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}
