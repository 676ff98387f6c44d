//go:build cgo && libvirt_dlopen

// libvirt.org/go/libvirt silences libvirt's own printing of errors in its
// package's init, which opens libvirt.so and the twenty libraries that it
// needs: 10 ms and 10 MB for every start of the program, whatever it was
// started for. The linker puts this in place of that call (--wrap, see
// libvirt_late.go); it keeps the handler until the first connection.

#include <stddef.h>

void __real_virSetErrorFuncWrapper(void *userData, void *handler);

static void *lateUserData, *lateHandler;

void __wrap_virSetErrorFuncWrapper(void *userData, void *handler)
{
    lateUserData = userData;
    lateHandler = handler;
}

void fettleLateErrorFunc(void)
{
    __real_virSetErrorFuncWrapper(lateUserData, lateHandler);
}
