package fallback

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"backstop/streams"
)

// maxServiceAnswer is the most bytes that a service may answer, as with an app.
const maxServiceAnswer = 64 << 10

// service asks a platform's service on the manifest's subject.
func service(nc *nats.Conn) strategy {
	return func(ctx context.Context, r request) (answer, error) {
		if nc == nil {
			return answer{}, errors.New("there is no NATS to ask a service")
		}
		msg, err := nc.RequestMsgWithContext(ctx, serviceRequest(ctx, r))
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return answer{}, fmt.Errorf("no service answers on %s", r.how.Subject)
		case err != nil:
			return answer{}, fmt.Errorf("asking %s: %w", r.how.Subject, err)
		case msg.Header.Get(micro.ErrorHeader) != "" || msg.Header.Get(micro.ErrorCodeHeader) != "":
			return answer{}, fmt.Errorf("the service on %s answered with an error", r.how.Subject)
		}
		data, err := serviceAnswer(msg.Data)
		if err != nil {
			return answer{}, fmt.Errorf("the service on %s %w", r.how.Subject, err)
		}
		return answer{data: data}, nil
	}
}

// serviceRequest is the call, and for whom and why the service is asked.
func serviceRequest(ctx context.Context, r request) *nats.Msg {
	e, id := r.call.Event, r.call.Endpoint.EndpointID
	msg := nats.NewMsg(r.how.Subject)
	msg.Data = e.Payload
	msg.Header.Set(streams.HeaderMsgID, e.ID)
	msg.Header.Set(streams.HeaderApp, id.App)
	msg.Header.Set(streams.HeaderCapability, id.Capability)
	msg.Header.Set(streams.HeaderReason, string(r.reason))
	if deadline, ok := ctx.Deadline(); ok {
		msg.Header.Set(streams.HeaderTimeoutMs, strconv.FormatInt(max(time.Until(deadline).Milliseconds(), 1), 10))
	}
	streams.WithTrace(e.TraceParent, e.TraceState)(msg)
	return msg
}

// serviceAnswer returns the data of a service's answer: that of
// {"success":true,"data":…} as apps answer, or else the whole of it.
func serviceAnswer(body []byte) ([]byte, error) {
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return nil, errors.New("answered nothing")
	case len(body) > maxServiceAnswer:
		return nil, fmt.Errorf("answered %d bytes; at most %d KiB are allowed", len(body), maxServiceAnswer>>10)
	case !streams.ValidJSON(body):
		return nil, errors.New("answered something that is not JSON")
	}
	var members map[string]json.RawMessage // not a struct, which would take "Success" as well
	object := json.Unmarshal(body, &members) == nil
	switch success := string(members["success"]); {
	case object && success == "true":
		return members["data"], nil
	case object && success == "false":
		return nil, errors.New("said no")
	default:
		return body, nil
	}
}
