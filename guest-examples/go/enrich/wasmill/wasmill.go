// Package wasmill is what a handler written in Go sees of wasmill. It needs nothing but the standard library.
//
// A handler registers a function in init and leaves main empty, since nobody calls it:
//
//	func init() { wasmill.Handle(handle) }
//
//	func handle(e *wasmill.Event, d wasmill.Delivery) error { ... }
//
//	func main() {}
//
// The error that the function returns decides what becomes of the event:
//
//   - nil: the event is done, and what was published is written together with its acknowledgement;
//   - [Retry], or any other plain error: the event is tried again later, nothing is published;
//   - [RetryAfter]: the same, not before a given time;
//   - [Reject]: the event can never be handled and goes to the dead-letter stream.
//
// A panic ends the instance. The value and the stack are logged, and the event is tried again in a new instance.
// Goroutines, channels and time.Sleep work while an event is being handled; a goroutine that is left behind stands
// still until the next event comes.
package wasmill

import (
	"errors"
	"fmt"
	"time"
)

// Attribute is a CloudEvents extension attribute.
type Attribute struct{ Name, Value string }

// Event is a CloudEvents record. Text that the producer did not give is empty.
type Event struct {
	// ID identifies the event together with Source.
	ID string
	// Source says who made the event, such as "/shop/checkout".
	Source string
	// Type says what happened, such as "order_placed".
	Type string
	// Time says when it happened, to the millisecond.
	Time time.Time
	// Subject says what it happened to, such as the number of an order.
	Subject string
	// SchemaVersion is the version of the schema that Data follows.
	SchemaVersion string
	// PartitionKey is the same for events that belong together.
	PartitionKey string
	// ContentType is the media type of Data, such as "application/json".
	ContentType string
	// Attributes are all others, in the order in which they were written.
	Attributes []Attribute
	// Data is the payload, untouched.
	Data []byte
}

// Attribute returns the value of an extension attribute, and an empty text if there is none of that name.
func (e *Event) Attribute(name string) string {
	for _, attribute := range e.Attributes {
		if attribute.Name == name {
			return attribute.Value
		}
	}
	return ""
}

// Delivery is one attempt to run one event through one handler.
type Delivery struct {
	// Tenant and Handler name the handler that runs, Stream and EntryID the place that the event was read from.
	Tenant, Handler, Stream, EntryID string
	// Attempt is 1 for the first attempt. After MaxAttempts, a failure sends the event to the dead-letter stream.
	Attempt, MaxAttempts int
	// Deadline is how long this attempt may take from its start.
	Deadline time.Duration
	// Replay tells that an operator asked for the event to be run again; it may have had its effects before.
	Replay bool
}

// Draft is an event to be published. The host adds id, source, time, causation, correlation and trace context.
type Draft struct {
	// Stream must be among the "publishes" of the handler's configuration.
	Stream string
	// Type says what happened. It must not be empty.
	Type string
	// Subject, SchemaVersion and PartitionKey may be empty. An empty PartitionKey becomes that of the handled event.
	Subject, SchemaVersion, PartitionKey string
	// ContentType is the media type of Data.
	ContentType string
	// Attributes are further ones; names that CloudEvents or the host define are refused.
	Attributes []Attribute
	// Data is the payload.
	Data []byte
	// Delay holds the event back after the delivery has been settled: whole milliseconds, at most 30 days.
	Delay time.Duration
}

// Level says how much a log line matters.
type Level uint32

// The levels of wasi:logging.
const (
	Trace Level = iota
	Debug
	Info
	Warn
	Error
	Critical
)

// Log writes a line to the log of the worker. The context says which part of the handler speaks.
func Log(level Level, context, format string, arguments ...any) {
	hostLog(uint32(level), text(context), text(fmt.Sprintf(format, arguments...)))
}

// Handle registers the function that handles events. It is called from init, once.
func Handle(function func(*Event, Delivery) error) { registered = function }

// Publish asks for a follow-up event and returns the id that it will have. Events are written together with the
// acknowledgement of the event being handled, or not at all. The error is a [PublishError].
func Publish(draft Draft) (string, error) {
	ids, err := publish([]Draft{draft}, true)
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// PublishBatch asks for all of the events or none of them, and returns their ids in order.
func PublishBatch(drafts []Draft) ([]string, error) { return publish(drafts, false) }

// PublishError says why a draft was refused. Nothing of the call has been kept.
type PublishError struct {
	// Kind is one of Denied, TooLarge, TooMany and Invalid.
	Kind PublishErrorKind
	// Detail is the stream, the fault, or the limit.
	Detail string
}

// PublishErrorKind tells the errors of publishing apart.
type PublishErrorKind uint8

const (
	// Denied: the stream is not among the handler's "publishes".
	Denied PublishErrorKind = iota
	// TooLarge: the draft, or all drafts of the delivery together, exceed a limit in bytes.
	TooLarge
	// TooMany: the delivery has published as many events as it may.
	TooMany
	// Invalid: a field is not what it must be, or the data does not follow its schema.
	Invalid
)

// Error implements the error interface.
func (e *PublishError) Error() string {
	switch e.Kind {
	case Denied:
		return fmt.Sprintf("the stream %s is not granted", e.Detail)
	case TooLarge:
		return fmt.Sprintf("more than %s bytes", e.Detail)
	case TooMany:
		return fmt.Sprintf("more than %s events", e.Detail)
	default:
		return e.Detail
	}
}

// failure is an error that says what becomes of the event. The numbers are those of the contract.
type failure struct {
	kind  uint8
	cause error
	after time.Duration
}

const (
	kindRetry uint8 = iota
	kindRetryAfter
	kindReject
)

func (f *failure) Error() string { return f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }

// Retry makes an error that is passing: the event is tried again when the backoff of the configuration says so.
func Retry(format string, arguments ...any) error {
	return &failure{kind: kindRetry, cause: fmt.Errorf(format, arguments...)}
}

// RetryAfter makes an error that is passing: the event is tried again, not before this time (at most seven days).
func RetryAfter(after time.Duration, format string, arguments ...any) error {
	return &failure{kind: kindRetryAfter, cause: fmt.Errorf(format, arguments...), after: after}
}

// Reject makes an error that is permanent: the event goes to the dead-letter stream at once.
func Reject(format string, arguments ...any) error {
	return &failure{kind: kindReject, cause: fmt.Errorf(format, arguments...)}
}

// failureOf finds what the handler asked for, however it was wrapped; a plain error is a retry.
func failureOf(err error) *failure {
	var found *failure
	if errors.As(err, &found) {
		return &failure{kind: found.kind, cause: err, after: found.after}
	}
	return &failure{kind: kindRetry, cause: err}
}
