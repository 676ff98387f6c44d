package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo makes the logger that etcd wants: warnings and worse go to log as
// warnings and errors, the rest nowhere. etcd ends the process when it cannot
// write; here only its goroutine ends, died learns why, and what is left of that
// etcd says nothing more once it was left.
func zapTo(log *slog.Logger, died *fatal) *zap.Logger {
	hook := giveUp{died}
	return zapUntil(log, &died.left, zap.WithFatalHook(hook), zap.WithPanicHook(hook))
}

// zapUntil makes the logger that a client of etcd wants: it is silent once the
// client was left.
func zapUntil(log *slog.Logger, l *left, opts ...zap.Option) *zap.Logger {
	return zap.New(&slogCore{log: log, left: l}, opts...)
}

// left tells whether an etcd or a client of one was left behind: nobody waits for
// its goroutines then, and what they say, seconds later, is of one that is no
// more.
type left struct {
	mu  sync.RWMutex
	yes bool
}

// leave waits for a line that is being written.
func (l *left) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.yes = true
}

// unless does say, if it was not left.
func (l *left) unless(say func()) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.yes {
		say()
	}
}

// giveUp ends the goroutine that logged something fatal.
type giveUp struct{ died *fatal }

// OnWrite implements zapcore.CheckWriteHook.
func (g giveUp) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(e.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = fmt.Errorf("%s: %w", e.Message, cause)
		}
	}
	g.died.fail(err)
	runtime.Goexit()
}

// slogCore is a zapcore.Core over slog.
type slogCore struct {
	log    *slog.Logger
	left   *left
	fields []zapcore.Field
}

// quiet are what etcd says of every embedded start or quick stop and that asks
// nothing of anybody.
var quiet = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
	// What it says when it is closed before it has noted its own version.
	"Failed to detect schema version":  true,
	"failed to update storage version": true,
	"failed to update cluster version": true,
}

func (c *slogCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{log: c.log, left: c.left, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !quiet[e.Message] {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(enc)
	}
	for _, f := range fields {
		f.AddTo(enc)
	}
	c.left.unless(func() {
		c.log.Log(context.Background(), level, "etcd: "+e.Message, slog.Any("etcd", enc.Fields))
	})
	return nil
}

func (c *slogCore) Sync() error { return nil }
