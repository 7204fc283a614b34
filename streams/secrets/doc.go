// Package secrets keeps the secrets that sign webhook requests.
//
// They rest in the bucket secrets, sealed with HPKE (RFC 9180: X25519,
// HKDF-SHA256, AES-256-GCM). Whoever may write to the bucket can seal one,
// with the public key that is published in it; opening takes the private key,
// which is derived from a key file that only the pipeline has. So the command
// `backstop apps apply`, a plain NATS client, can make a secret and show it
// once, and no secret ever travels or rests in clear:
//
//	Generate, Check, Secret   a secret in memory; prints as [redacted]
//	LoadOrCreateKey, Key      the key file; opens
//	Publish, PublicKey        the bucket's public key; seals
//	Store                     sets and rotates, without the key file
//	Keyring                   the opened secrets of a running pipeline
//
// What this doesn't protect from: somebody who may write to the bucket can
// replace a secret, or the public key, with one of their own making. Grant
// services no access to KV_secrets. A Keyring logs it when the public key
// isn't its own.
package secrets
