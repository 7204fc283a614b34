package manifest

// MaxSize is the most bytes a manifest may have: many times a manifest with as
// many webhooks as may be, and below what a NATS message carries by default.
const MaxSize = 256 << 10

// The bounds of a manifest's values; times are milliseconds. schema.json
// repeats them, and a test proves that both agree.
const (
	hour = 60 * 60 * 1000
	day  = 24 * hour

	maxWebhooks = 64   // as many capabilities as have a stream of their own
	maxDepth    = 64   // the manifest's own fields need 6, a static value the rest; indented, it stays small
	maxURL      = 2048 // what servers and proxies accept without thinking
	maxPath     = 1024
	maxTitle    = 128
	maxSubject  = 256

	maxAttempts    = 20      // with an hour between them, most of a day: what maxAge is by default
	maxRetryDelay  = hour    // as with Retry-After
	maxThreshold   = 1000    // above it, a breaker is none
	minRecovery    = 100     // below it, an open circuit is busy probing
	maxRecovery    = hour    // above it, an app that works again waits for nothing
	maxConcurrency = 1024    // the most that one app can make one replica hold
	minRateLimit   = 0.001   // one in a quarter of an hour; less is a way of saying never
	maxRateLimit   = 100_000 // above what one machine sends
	minMaxAge      = 1000    // below it, events expire on their way
	maxMaxAge      = 30 * day
	maxTTL         = day  // the cache bucket keeps nothing for longer
	minWithin      = 1000 // below it, an app that answers at once may be late
	maxWithin      = day  // as long as a callback URL can be used

	maxHeaders     = 20
	maxHeaderName  = 64
	maxHeaderValue = 2048 // room for a signed token

	maxStrategies = 8 // there are four, and default may come with several handlers
	maxCacheKeys  = 16
	maxPointer    = 256
	maxCodes      = 64
	maxCode       = 64
)
