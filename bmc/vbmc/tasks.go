package vbmc

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

const tasksPath = root + "/TaskService/Tasks"

// monitor is the URI of the task's monitor, where OpenBMC has it: bmclib takes
// the task's id from it.
func (t *task) monitor() string { return tasksPath + "/" + t.id + "/Monitor" }

// maxTasks bounds the list of tasks; the oldest ended ones go first.
const maxTasks = 50

// task is work that goes on after its answer (DSP0266 §13.5). It needs no
// goroutine: it ends by the clock, and finish is called by whoever looks next.
type task struct {
	id     string
	name   string
	start  time.Time
	takes  time.Duration
	finish func() error // s.mu is held
	err    error
	end    time.Time // zero: runs
}

// newTask adds a task. s.mu is held.
func (s *Server) newTask(name string, takes time.Duration, finish func() error) *task {
	s.taskSeq++
	t := &task{id: strconv.Itoa(s.taskSeq), name: name, start: s.now(), takes: takes, finish: finish}
	s.tasks = append(s.tasks, t)
	for i := 0; len(s.tasks) > maxTasks && i < len(s.tasks); i++ {
		if !s.tasks[i].end.IsZero() {
			s.tasks = append(s.tasks[:i], s.tasks[i+1:]...)
			i--
		}
	}
	return t
}

// settleTasks ends what is due. s.mu is held.
func (s *Server) settleTasks() {
	now := s.now()
	for _, t := range s.tasks {
		if t.end.IsZero() && !now.Before(t.start.Add(t.takes)) {
			t.end, t.err = t.start.Add(t.takes), t.finish()
			sev, what := "OK", "completed"
			if t.err != nil {
				sev, what = "Critical", "failed: "+t.err.Error()
			}
			s.record("manager", sev, fmt.Sprintf("Task %s (%s) %s.", t.id, t.name, what))
		}
	}
}

// running tells whether a task of this name is under way. s.mu is held.
func (s *Server) running(name string) bool {
	s.settleTasks()
	for _, t := range s.tasks {
		if t.name == name && t.end.IsZero() {
			return true
		}
	}
	return false
}

// accepted is the answer to a request that became a task (DSP0266 §13.5). It
// has no body: sushy would take the @odata.id of a Task in it for the monitor,
// and a Task answers 200 while it runs. Nor a Retry-After: sushy 4.3 fails on
// a number there.
func (s *Server) accepted(t *task) reply {
	return reply{status: http.StatusAccepted, header: map[string]string{"Location": t.monitor()}}
}

// taskBody is a Task (DSP0268). s.mu is held.
func (s *Server) taskBody(t *task) obj {
	o := obj{"@odata.id": tasksPath + "/" + t.id, "@odata.type": "#Task.v1_7_4.Task", "Id": t.id, "Name": t.name, "HidePayload": true,
		"StartTime": t.start.UTC().Format(time.RFC3339), "TaskMonitor": t.monitor(), "Messages": []obj{}}
	switch {
	case t.end.IsZero():
		done := 0
		if t.takes > 0 {
			done = min(99, max(0, int(100*s.now().Sub(t.start)/t.takes)))
		}
		o["TaskState"], o["TaskStatus"], o["PercentComplete"] = "Running", "OK", done
	case t.err != nil:
		o["TaskState"], o["TaskStatus"], o["PercentComplete"], o["EndTime"] = "Exception", "Critical", 100, t.end.UTC().Format(time.RFC3339)
		o["Messages"] = []obj{(&message{ID: "TaskFailed", Args: []string{t.err.Error()}}).info()}
	default:
		o["TaskState"], o["TaskStatus"], o["PercentComplete"], o["EndTime"] = "Completed", "OK", 100, t.end.UTC().Format(time.RFC3339)
		o["Messages"] = []obj{(&message{ID: "Success"}).info()}
	}
	return o
}

func (s *Server) taskRoutes() []*resource {
	// with finds the task of the URI; s.mu is held within f.
	with := func(c *call, f func(i int, t *task) error) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.settleTasks()
		for i, t := range s.tasks {
			if t.id == c.vars["task"] {
				return f(i, t)
			}
		}
		return msgNotFound(c.path)
	}
	return []*resource{
		{pattern: root + "/TaskService", get: func(*call) (obj, error) {
			return obj{"@odata.id": root + "/TaskService", "@odata.type": "#TaskService.v1_2_1.TaskService", "Id": "TaskService", "Name": "Task Service",
				"ServiceEnabled": true, "DateTime": s.clock().Format(time.RFC3339), "CompletedTaskOverWritePolicy": "Oldest",
				"LifeCycleEventOnTaskStateChange": true, "Status": statusOK(), "Tasks": link(tasksPath)}, nil
		}},
		{pattern: tasksPath, get: func(*call) (obj, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.settleTasks()
			paths := make([]string, len(s.tasks))
			for i, t := range s.tasks {
				paths[i] = tasksPath + "/" + t.id
			}
			return collection(tasksPath, "TaskCollection", "Tasks", paths...), nil
		}},
		{pattern: tasksPath + "/{task}", priv: privManager, get: func(c *call) (body obj, err error) {
			err = with(c, func(_ int, t *task) error { body = s.taskBody(t); return nil })
			return body, err
		}, del: func(c *call) (reply, error) {
			return reply{status: http.StatusNoContent}, with(c, func(i int, t *task) error {
				if t.end.IsZero() {
					return msgInUse()
				}
				s.tasks = append(s.tasks[:i], s.tasks[i+1:]...)
				return nil
			})
		}},
		{pattern: tasksPath + "/{task}/Monitor", monitor: func(c *call) (rep reply, err error) {
			err = with(c, func(_ int, t *task) error {
				switch {
				case t.end.IsZero():
					rep = s.accepted(t)
					rep.body = s.taskBody(t)
				case t.err != nil:
					return bad("TaskFailed", t.err.Error())
				default:
					rep = reply{status: http.StatusNoContent}
				}
				return nil
			})
			return rep, err
		}},
	}
}
