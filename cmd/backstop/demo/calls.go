package demo

import "time"

// Call is a call that the demo makes to an app again and again.
type Call struct {
	Capability string
	Payload    string        // JSON
	Every      time.Duration // how often
	answer     string        // the app's, JSON
	fallback   []any         // nil: the platform's, by capability
}

// The calls: an answer that can be wrong by default, rules that can come from
// the cache, a registration that a person can decide about, and a draw that
// the platform can hold itself.
var (
	quizAnswer   = Call{Capability: "quizAnswer", Every: time.Second, Payload: `{"quizId":"q1","answer":"b"}`, answer: `{"correct":true}`}
	quizRules    = Call{Capability: "quizRules", Every: time.Second, Payload: `{"quizId":"q1"}`, answer: `{"rounds":3}`}
	registration = Call{Capability: "participantRegistration", Every: 5 * time.Second, Payload: `{"quizId":"q1","name":"Ada"}`, answer: `{"seat":12}`}
	winners      = Call{
		Capability: "winnerSelection", Every: time.Second, Payload: `{"candidates":["ada","grace","linus"],"count":1}`, answer: `{"winners":["ada"]}`,
		fallback: []any{map[string]any{"strategy": "default", "handler": "random-selection"}},
	}
)

// Calls returns the calls that the app takes.
func (a *App) Calls() []Call { return a.calls }

// answerTo returns what an app answers to a webhook, when it does.
func answerTo(capability string) string {
	for _, c := range []Call{quizAnswer, quizRules, registration, winners} {
		if c.Capability == capability {
			return `{"success":true,"data":` + c.answer + `}`
		}
	}
	return `{"success":true}`
}
