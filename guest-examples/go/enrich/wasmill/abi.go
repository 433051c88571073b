package wasmill

// The border: the canonical ABI of the component model, written out for the world of wit/events.wit. The structs have
// the layout that the ABI gives to the records of the same names.
//
// The host puts what it hands over into an arena, by calling cabi_realloc. That function must not touch the Go heap: a
// garbage collection inside it would call a WASI clock, which is forbidden at that moment. So it only counts up, and
// the Go side copies everything out of the arena before it does anything else, and empties it.

import (
	"bytes"
	"runtime/debug"
	"strconv"
	"strings"
	"structs"
	"sync"
	"time"
	"unicode/utf8"
	"unsafe"
)

// ArenaBytes is the room for what the host hands over in one call: the event with all its fields. An event that does
// not fit ends as an error of the host ("realloc return: beyond end of memory"). If the handler's configuration has
// limits.event_bytes above 2 MiB, raise this to that and 1 MiB more. Room that is not used costs nothing.
const ArenaBytes = 3 << 20

var (
	// arena is aligned for the strictest field that the ABI has.
	arena struct {
		_     [0]uint64
		bytes [ArenaBytes]byte
	}
	arenaUsed uint32
	// adapterArena is for the adapter from WASI preview 1, which allocates its state once, before Go runs.
	adapterArena struct {
		_     [0]uint64
		bytes [144 << 10]byte
	}
	adapterUsed uint32
)

//go:wasmexport cabi_realloc
//go:nosplit
func cabiRealloc(old, oldSize, align, size uint32) uint32 {
	return bump(&arena.bytes[0], &arenaUsed, ArenaBytes, old, oldSize, align, size)
}

//go:wasmexport cabi_realloc_adapter
//go:nosplit
func cabiReallocAdapter(old, oldSize, align, size uint32) uint32 {
	return bump(&adapterArena.bytes[0], &adapterUsed, uint32(len(adapterArena.bytes)), old, oldSize, align, size)
}

// bump takes the next free bytes. Where there are none it returns an address outside of memory, which the host
// reports. What was handed out before is never extended in place.
//
//go:nosplit
func bump(start *byte, used *uint32, room, old, oldSize, align, size uint32) uint32 {
	at := (*used + align - 1) &^ (align - 1)
	if at > room || size > room-at {
		return ^uint32(0) &^ (align - 1)
	}
	*used = at + size
	target := unsafe.Add(unsafe.Pointer(start), at)
	if oldSize > 0 {
		from := unsafe.Add(unsafe.Pointer(start), old-address(unsafe.Pointer(start)))
		copy(unsafe.Slice((*byte)(target), size), unsafe.Slice((*byte)(from), oldSize))
	}
	return address(target)
}

// address is a pointer as the ABI has it. Memory has 32 bits, although Go's pointers have 64.
//
//go:nosplit
func address(pointer unsafe.Pointer) uint32 { return uint32(uintptr(pointer)) }

// A small heap: what a handler keeps is little, and collecting it more often costs less than touching new memory for every
// event (measured: 64 KiB events in 14 us instead of 22).
func init() { debug.SetGCPercent(25) }

// list is a string or a list: where it begins, and how many elements it has.
type list struct {
	_      structs.HostLayout
	at     uint32
	length uint32
}

// copied returns the bytes of a list in the arena, copied.
func (l list) copied() []byte { return bytes.Clone(elements[byte](l)) }

// text returns the same as a string.
func (l list) text() string { return string(elements[byte](l)) }

// elements returns the elements of a list in the arena, where they are.
func elements[T any](l list) []T {
	if l.length == 0 {
		return nil
	}
	from := l.at - address(unsafe.Pointer(&arena.bytes[0]))
	return unsafe.Slice((*T)(unsafe.Pointer(&arena.bytes[from])), l.length)
}

// option is an optional text.
type option struct {
	_     structs.HostLayout
	some  uint8
	value list
}

func (o option) text() string {
	if o.some == 0 {
		return ""
	}
	return o.value.text()
}

// optionNumber is an optional number.
type optionNumber struct {
	_     structs.HostLayout
	some  uint8
	value uint64
}

type abiAttribute struct {
	_           structs.HostLayout
	name, value list
}

type abiEvent struct {
	_                                    structs.HostLayout
	id, source, kind                     list
	time                                 uint64
	subject, schemaVersion, partitionKey option
	contentType, attributes, data        list
}

type abiDelivery struct {
	_                                structs.HostLayout
	tenant, handler, stream, entryID list
	attempt, maxAttempts             uint32
	deadlineMs                       uint64
	replay                           uint8
}

type abiArguments struct {
	_        structs.HostLayout
	event    abiEvent
	delivery abiDelivery
}

type abiDraft struct {
	_                                    structs.HostLayout
	stream, kind                         list
	subject, schemaVersion, partitionKey option
	contentType, attributes, data        list
	delay                                optionNumber
}

// abiFailure is a variant: its case, and then what belongs to that.
type abiFailure struct {
	_       structs.HostLayout
	kind    uint8
	payload struct {
		_       structs.HostLayout
		message list
		afterMs uint64
	}
}

type abiResult struct {
	_       structs.HostLayout
	failed  uint8
	failure abiFailure
}

// abiPublished is a result. If the first byte is 0, then `value` are the ids; else it begins with the case of the
// error, and `detail` is a text or a number.
type abiPublished struct {
	_      structs.HostLayout
	failed uint64
	value  list
	detail list
}

//go:wasmimport wasi:logging/logging@0.1.0-draft log
func hostLog(level uint32, context, message string)

//go:wasmimport wasmill:events/publisher@0.1.0 publish
func hostPublish(draft *abiDraft, result *abiPublished)

//go:wasmimport wasmill:events/publisher@0.1.0 publish-batch
func hostPublishBatch(drafts *abiDraft, count uint32, result *abiPublished)

var (
	registered func(*Event, Delivery) error
	// outcome and its message live here, since the host reads them after handle has returned.
	outcome        abiResult
	outcomeMessage string
)

//go:wasmexport wasmill:events/handler@0.1.0#handle
func handle(arguments *abiArguments) *abiResult {
	event, delivery := arguments.event.lift(), arguments.delivery.lift()
	arenaUsed = 0
	defer func() {
		if value := recover(); value != nil {
			Log(Critical, delivery.Handler, "panic: %v\n%s", value, debug.Stack())
			panic(value)
		}
	}()
	if registered == nil {
		panic("no handler: call wasmill.Handle in init")
	}
	outcome, outcomeMessage = abiResult{}, ""
	if err := registered(event, delivery); err != nil {
		failure := failureOf(err)
		outcomeMessage = text(failure.Error())
		outcome.failed = 1
		outcome.failure.kind = failure.kind
		outcome.failure.payload.message = lowerText(outcomeMessage)
		outcome.failure.payload.afterMs = milliseconds(failure.after)
	}
	return &outcome
}

func (e *abiEvent) lift() *Event {
	event := &Event{
		ID:            e.id.text(),
		Source:        e.source.text(),
		Type:          e.kind.text(),
		Time:          time.UnixMilli(int64(e.time)).UTC(),
		Subject:       e.subject.text(),
		SchemaVersion: e.schemaVersion.text(),
		PartitionKey:  e.partitionKey.text(),
		ContentType:   e.contentType.text(),
		Data:          e.data.copied(),
	}
	for _, attribute := range elements[abiAttribute](e.attributes) {
		event.Attributes = append(event.Attributes, Attribute{attribute.name.text(), attribute.value.text()})
	}
	return event
}

func (d *abiDelivery) lift() Delivery {
	return Delivery{
		Tenant:      d.tenant.text(),
		Handler:     d.handler.text(),
		Stream:      d.stream.text(),
		EntryID:     d.entryID.text(),
		Attempt:     int(d.attempt),
		MaxAttempts: int(d.maxAttempts),
		Deadline:    time.Duration(d.deadlineMs) * time.Millisecond,
		Replay:      d.replay != 0,
	}
}

// publishing holds what the host reads while it publishes. Being global keeps it off the stacks of goroutines, which
// move, and away from the garbage collector, which does not see the addresses in the structs of the ABI.
var publishing struct {
	sync.Mutex
	drafts     []Draft
	lowered    []abiDraft
	attributes [][]abiAttribute
	result     abiPublished
}

func publish(drafts []Draft, single bool) ([]string, error) {
	for i := range drafts {
		if err := drafts[i].check(); err != nil {
			return nil, err
		}
	}
	p := &publishing
	p.Lock()
	defer p.Unlock()
	p.drafts, p.lowered, p.attributes = drafts, make([]abiDraft, len(drafts)), make([][]abiAttribute, len(drafts))
	p.result = abiPublished{}
	for i := range drafts {
		p.attributes[i] = lowerAttributes(drafts[i].Attributes)
		p.lowered[i] = lowerDraft(&drafts[i], p.attributes[i])
	}
	if single {
		hostPublish(&p.lowered[0], &p.result)
	} else {
		hostPublishBatch(unsafe.SliceData(p.lowered), uint32(len(p.lowered)), &p.result)
	}
	ids, err := p.result.lift(single)
	p.drafts, p.lowered, p.attributes = nil, nil, nil
	arenaUsed = 0
	return ids, err
}

// check finds what the ABI cannot carry: the host would trap on text that is not UTF-8.
func (d *Draft) check() error {
	texts := []string{d.Stream, d.Type, d.Subject, d.SchemaVersion, d.PartitionKey, d.ContentType}
	for _, attribute := range d.Attributes {
		texts = append(texts, attribute.Name, attribute.Value)
	}
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return &PublishError{Invalid, "not UTF-8: " + strconv.Quote(text)}
		}
	}
	return nil
}

func (r *abiPublished) lift(single bool) ([]string, error) {
	if uint8(r.failed) == 0 {
		if single {
			return []string{r.value.text()}, nil
		}
		var ids []string
		for _, id := range elements[list](r.value) {
			ids = append(ids, id.text())
		}
		return ids, nil
	}
	kind, detail := PublishErrorKind(r.value.at), ""
	switch kind {
	case TooLarge:
		detail = strconv.FormatUint(uint64(r.detail.length)<<32|uint64(r.detail.at), 10)
	case TooMany:
		detail = strconv.FormatUint(uint64(r.detail.at), 10)
	default:
		detail = r.detail.text()
	}
	return nil, &PublishError{kind, detail}
}

func lowerDraft(d *Draft, attributes []abiAttribute) abiDraft {
	lowered := abiDraft{
		stream:        lowerText(d.Stream),
		kind:          lowerText(d.Type),
		subject:       lowerOption(d.Subject),
		schemaVersion: lowerOption(d.SchemaVersion),
		partitionKey:  lowerOption(d.PartitionKey),
		contentType:   lowerText(d.ContentType),
		attributes:    list{at: address(unsafe.Pointer(unsafe.SliceData(attributes))), length: uint32(len(attributes))},
		data:          list{at: address(unsafe.Pointer(unsafe.SliceData(d.Data))), length: uint32(len(d.Data))},
	}
	if d.Delay > 0 {
		lowered.delay = optionNumber{some: 1, value: milliseconds(d.Delay)}
	}
	return lowered
}

func lowerAttributes(attributes []Attribute) []abiAttribute {
	lowered := make([]abiAttribute, 0, len(attributes))
	for _, attribute := range attributes {
		lowered = append(lowered, abiAttribute{name: lowerText(attribute.Name), value: lowerText(attribute.Value)})
	}
	return lowered
}

func lowerOption(text string) option {
	if text == "" {
		return option{}
	}
	return option{some: 1, value: lowerText(text)}
}

func lowerText(text string) list {
	return list{at: address(unsafe.Pointer(unsafe.StringData(text))), length: uint32(len(text))}
}

// text makes UTF-8 of what a handler says, since the host would trap on anything else.
func text(said string) string { return strings.ToValidUTF8(said, "\uFFFD") }

func milliseconds(duration time.Duration) uint64 { return uint64(max(duration, 0) / time.Millisecond) }
