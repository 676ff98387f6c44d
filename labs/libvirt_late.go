//go:build cgo && libvirt_dlopen

package labs

/*
#cgo LDFLAGS: -Wl,--wrap=virSetErrorFuncWrapper
void fettleLateErrorFunc(void);
*/
import "C"

import "sync"

// loadLibvirt does, once and before the first call of libvirt, what the
// libvirt package's init would have done at every start: libvirt_late.c.
var loadLibvirt = sync.OnceFunc(func() { C.fettleLateErrorFunc() })
