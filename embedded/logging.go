package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
)

// writeErrorMark is in what nats-server says of a write that failed, in its log
// as in its health: "critical write error: …", "stream '…' write error: …".
const writeErrorMark = "write error"

// serverLog passes nats-server's log on. Its notices are written for somebody
// who watches a server start, some twenty lines each time: they go to debug.
// Its own debug and trace levels, which show clients' messages, stay off.
type serverLog struct {
	log *slog.Logger
	// fatal is the first reason why the server can't run. nats-server leaves
	// it to its logger to end the process and just returns when that doesn't.
	fatal atomic.Pointer[string]
	// failedWrite is the first write of a stream or consumer that failed.
	// nats-server remembers it as well, and refuses everything after it, but
	// tells of it only here until somebody publishes to that stream.
	failedWrite atomic.Pointer[string]
}

func (l *serverLog) Noticef(format string, v ...any) { l.put(slog.LevelDebug, format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.put(slog.LevelWarn, format, v) }
func (l *serverLog) Debugf(string, ...any)           {}
func (l *serverLog) Tracef(string, ...any)           {}

func (l *serverLog) Errorf(format string, v ...any) {
	if strings.Contains(format, writeErrorMark) {
		what := fmt.Sprintf(format, v...)
		l.failedWrite.CompareAndSwap(nil, &what)
	}
	l.put(slog.LevelError, format, v)
}

func (l *serverLog) Fatalf(format string, v ...any) {
	reason := fmt.Sprintf(format, v...)
	l.fatal.CompareAndSwap(nil, &reason)
	l.put(slog.LevelError, format, v)
}

func (l *serverLog) put(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, fmt.Sprintf(format, v...)) //nolint:sloglint // nats-server's message, not ours
	}
}
