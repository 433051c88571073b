package main

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"enrich/wasmill"
)

// hoard keeps what a hog has allocated.
var hoard [][]byte

// drill fails on request, in the ways that the tests of the host need: it is not part of the example.
func drill(event *wasmill.Event) {
	if event.Type != "drill" {
		return
	}
	switch string(event.Data) {
	case "trap":
		panic("a drill")
	case "spin":
		for {
		}
	case "hog":
		for {
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = 1
			}
			hoard = append(hoard, block)
		}
	case "package":
		// From the next event on.
		wasmill.Handle(exercise)
	}
}

// exercise uses what the package wasmill has and the example does not need; the type of the event says what.
func exercise(event *wasmill.Event, delivery wasmill.Delivery) error {
	draft := wasmill.Draft{Stream: "orders.enriched", Type: "made", ContentType: "text/plain", Data: []byte("x")}
	switch event.Type {
	case "fields":
		wasmill.Log(wasmill.Critical, "fields", "%+v %+v %s", *event, delivery, event.Attribute("tone"))
		return nil
	case "batch":
		full := draft
		full.Subject, full.SchemaVersion, full.PartitionKey = "s", "2", "p"
		full.Attributes = []wasmill.Attribute{{Name: "a", Value: "1"}, {Name: "b", Value: "ü"}}
		full.Delay = 1500 * time.Millisecond
		ids, err := wasmill.PublishBatch([]wasmill.Draft{full, draft})
		wasmill.Log(wasmill.Debug, "batch", "%v", ids)
		return err
	case "empty_batch":
		ids, err := wasmill.PublishBatch(nil)
		return errors.Join(err, wasmill.Reject("%d ids", len(ids)))
	case "denied":
		draft.Stream = "forbidden"
	case "too_large":
		draft.Data = make([]byte, 1<<20)
	case "bad_text":
		wasmill.Log(wasmill.Warn, "\xff", "\xff")
		draft.Type = "\xff"
	case "too_many":
		_, err := wasmill.PublishBatch(make([]wasmill.Draft, 1000))
		return wasmill.Reject("%w", err)
	case "later":
		return wasmill.RetryAfter(1500*time.Millisecond, "later %s", "\xff")
	case "plain":
		return errors.New("plain")
	case "wrapped":
		return fmt.Errorf("outer: %w", wasmill.Reject("inner"))
	case "goroutines":
		var group sync.WaitGroup
		for i := range 10 {
			group.Add(1)
			go func() {
				defer group.Done()
				time.Sleep(time.Duration(10-i) * time.Millisecond)
				own := draft
				own.Subject = fmt.Sprint(i)
				if _, err := wasmill.Publish(own); err != nil {
					panic(err)
				}
			}()
		}
		group.Wait()
		return nil
	}
	_, err := wasmill.Publish(draft)
	var refused *wasmill.PublishError
	return wasmill.Reject("%t %w", errors.As(err, &refused), err)
}
