package fallback

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math"
)

// DrawAlgorithm names what Draw does. Another way of drawing would have another
// name, and Draw would go on repeating draws of this one.
const DrawAlgorithm = "hmac-sha256-fisher-yates-v1"

// Draw draws count of n candidates, of which each has the same chance, and
// returns their positions from 0, in the order of drawing, without repeats. The
// seed decides; who has it repeats the draw. count above n draws all, and less
// than 1 none.
//
// The n different candidates stand in the order of the payload. Random numbers
// are the first 8 bytes, big-endian, of HMAC-SHA256 with the seed as key over a
// counter from 0 of 8 bytes, big-endian. One below k is such a number modulo k,
// after passing over those that would make small results likelier. The draw is
// the beginning of a Fisher-Yates shuffle. In Python:
//
//	import hmac
//
//	def draw(seed_hex, n, count):
//	    seed, order, counter = bytes.fromhex(seed_hex), list(range(n)), 0
//	    for i in range(count):
//	        k = n - i
//	        while True:
//	            digest = hmac.new(seed, counter.to_bytes(8, "big"), "sha256").digest()
//	            x, counter = int.from_bytes(digest[:8], "big"), counter + 1
//	            if x < 2**64 - 2**64 % k:
//	                break
//	        j = i + x % k
//	        order[i], order[j] = order[j], order[i]
//	    return order[:count]
func Draw(seed []byte, n, count int) []int {
	count = max(min(count, n), 0)
	order := make([]int, max(n, 0))
	for i := range order {
		order[i] = i
	}
	numbers := newNumbers(seed)
	for i := range count {
		j := i + numbers.below(n-i)
		order[i], order[j] = order[j], order[i]
	}
	return order[:count]
}

// numbers are the random numbers of a seed, one after the other.
type numbers struct {
	mac     hash.Hash
	counter uint64
	sum     [sha256.Size]byte
}

func newNumbers(seed []byte) *numbers { return &numbers{mac: hmac.New(sha256.New, seed)} }

// below returns a number from 0 to k-1; k is at least 1.
func (s *numbers) below(k int) int {
	size := uint64(k)                   //nolint:gosec // at least 1
	last := math.MaxUint64 - -size%size // the largest x that is as likely modulo k as any; -size is 2^64 - k
	for {
		if x := s.next(); x <= last {
			return int(x % size) //nolint:gosec // below k
		}
	}
}

func (s *numbers) next() uint64 {
	var counter [8]byte
	binary.BigEndian.PutUint64(counter[:], s.counter)
	s.counter++
	s.mac.Reset()
	s.mac.Write(counter[:])
	return binary.BigEndian.Uint64(s.mac.Sum(s.sum[:0]))
}
