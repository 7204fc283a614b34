package dispatcher

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter is the longest that an app's Retry-After is followed. An app
// that asks for more is asked again after it, so that a slip of the pen, as
// milliseconds for seconds, doesn't switch it off for weeks.
const MaxRetryAfter = time.Hour

// parseRetryAfter reads a Retry-After header, whole seconds or an HTTP date,
// and returns how long to wait from now: at most MaxRetryAfter, and 0 for what
// is over or makes no sense.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	var wait time.Duration
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0 // more than 64 bits of seconds is no time but a mistake
		}
		wait = time.Duration(min(seconds, int64(MaxRetryAfter/time.Second))) * time.Second
	} else {
		at, err := http.ParseTime(value)
		if err != nil {
			return 0
		}
		wait = at.Sub(now)
	}
	return min(max(wait, 0), MaxRetryAfter)
}
