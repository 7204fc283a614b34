// Package sign makes and checks the two signatures that a webhook request carries:
//
//	X-Platform-Signature   sha256= and hex HMAC-SHA256 of the body,
//	                       keyed with the secret as it is displayed
//	webhook-signature      Standard Webhooks: v1, and base64 HMAC-SHA256 of
//	                       id.timestamp.body, keyed with the decoded secret
//
// The second also binds the id and the time, so that a recorded request can't
// be sent again later; the first is there for apps that know only it.
//
// A secret is "whsec_" and the base64 of its bytes. While one is being rotated
// there are two, and a request is signed with both.
package sign

import "time"

// The headers, in the canonical form that http.Header keeps them in.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
	HeaderPlatform  = "X-Platform-Signature"
)

// Tolerance is how far a request's timestamp may be from the receiver's clock,
// either way: what Standard Webhooks recommends, wide enough for clocks that
// nobody keeps and narrow enough to make a recorded request worthless soon.
const Tolerance = 5 * time.Minute

const (
	version        = "v1,"
	platformPrefix = "sha256="
)
