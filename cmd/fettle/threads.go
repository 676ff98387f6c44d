package main

import (
	"os"
	"runtime"
)

// threadsToWait is how many goroutines a sync lets run at once: most of them wait
// in the kernel, for the disk.
const threadsToWait = 8

// waitForDisks lets more goroutines run than there are processors, until back is
// called. Of one that waits in the kernel the runtime finds out only after a while,
// and meanwhile its processor does nothing: a sync on two processors used one.
func waitForDisks() (back func()) {
	was := runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") != "" || was >= threadsToWait { // somebody knows better
		return func() {}
	}
	runtime.GOMAXPROCS(threadsToWait)
	return func() { runtime.GOMAXPROCS(was) }
}
