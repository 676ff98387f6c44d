package agent

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/fettle-dev/fettle/agent/wire"
)

// reporter sends the reports of one task in order, and never makes the work
// wait for the network: progress that was not sent yet is replaced by newer.
type reporter struct {
	send  func(context.Context, wire.Report) error
	retry Retry
	every time.Duration // progress at most so often
	now   func() time.Time
	log   *slog.Logger
	task  string
	gone  func() // the server has ended this task

	mu    sync.Mutex
	queue []wire.Report
	wake  chan struct{}
	done  chan struct{}
}

func (r *reporter) start(ctx context.Context) {
	r.wake, r.done = make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(r.done)
		r.run(ctx)
	}()
}

// add queues a report.
func (r *reporter) add(rep wire.Report) {
	rep.Task, rep.Time = r.task, r.now()
	r.mu.Lock()
	if n := len(r.queue); n > 0 && isProgress(rep) && isProgress(r.queue[n-1]) && r.queue[n-1].Step == rep.Step {
		r.queue[n-1] = rep
	} else {
		r.queue = append(r.queue, rep)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func isProgress(rep wire.Report) bool {
	return rep.Text == "" && rep.Error == "" && !isFinal(rep.Step)
}

func isFinal(s wire.Step) bool { return s == wire.StepDone || s == wire.StepFailed }

// run sends until a final report is delivered (or ctx ends).
func (r *reporter) run(ctx context.Context) {
	var last time.Time
	for {
		rep, ok := r.take()
		if !ok {
			select {
			case <-r.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		if isProgress(rep) && rep.Done != rep.Total {
			if wait := r.every - time.Since(last); wait > 0 {
				// Put back unless something newer is there already.
				r.mu.Lock()
				if len(r.queue) == 0 {
					r.queue = append(r.queue, rep)
				}
				r.mu.Unlock()
				if sleep(ctx, wait) != nil {
					return
				}
				continue
			}
			last = time.Now()
		}
		for n := 1; ; n++ {
			err := r.send(ctx, rep)
			if err == nil || ctx.Err() != nil {
				break
			}
			if hasStatus(err, http.StatusGone) {
				r.log.Warn("the server has ended this task", "task", r.task)
				r.gone()
				return
			}
			if isProgress(rep) && n > 1 {
				break // newer progress will come
			}
			d := r.retry.Delay(n)
			r.log.Warn("report not delivered; trying again", "step", rep.Step, "error", err, "in", d.Round(time.Millisecond))
			if sleep(ctx, d) != nil {
				return
			}
		}
		if isFinal(rep.Step) {
			return
		}
	}
}

func (r *reporter) take() (wire.Report, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return wire.Report{}, false
	}
	rep := r.queue[0]
	r.queue = r.queue[1:]
	return rep, true
}
