// Enriches orders: checks each one, adds how many items it has, and publishes it again.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"unicode/utf8"

	"enrich/wasmill"
)

// Order is the part of an order that is looked at; prices are in cents. Pointers tell what is missing from what is 0.
type Order struct {
	OrderID  string  `json:"order_id"`
	Customer *string `json:"customer"`
	Items    []Item  `json:"items"`
	Total    *int64  `json:"total"`
	// The price list is busy when this order comes by for the first time. Shows what a retry looks like.
	Flaky bool `json:"flaky"`
}

// Item is one line of an order.
type Item struct {
	SKU      *string `json:"sku"`
	Quantity int64   `json:"quantity"`
	Price    *int64  `json:"price"`
}

func init() { wasmill.Handle(handle) }

// main is never called: the component is a library.
func main() {}

func handle(event *wasmill.Event, delivery wasmill.Delivery) error {
	drill(event)
	var order Order
	var fields map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(event.Data, &order), json.Unmarshal(event.Data, &fields)); err != nil {
		return wasmill.Reject("malformed order: %w", err)
	}
	// The JSON package replaces what is not UTF-8.
	if !utf8.Valid(event.Data) {
		return wasmill.Reject("malformed order: not UTF-8")
	}
	count, err := order.countItems()
	if err != nil {
		return wasmill.Reject("malformed order: %w", err)
	}
	if order.Flaky && delivery.Attempt == 1 {
		return wasmill.Retry("the price list is busy")
	}
	// Whatever else is in the order stays as it is.
	fields["item_count"] = strconv.AppendInt(nil, count, 10)
	data, err := json.Marshal(fields)
	if err != nil {
		return wasmill.Reject("malformed order: %w", err)
	}
	_, err = wasmill.Publish(wasmill.Draft{
		Stream:      "orders.enriched",
		Type:        "order_enriched",
		Subject:     order.OrderID,
		ContentType: "application/json",
		Data:        data,
	})
	if err != nil {
		return wasmill.Reject("cannot publish: %w", err)
	}
	wasmill.Log(wasmill.Info, "enrich", "enriched order %s", order.OrderID)
	return nil
}

// countItems adds up the quantities. It fails if the order is not complete, or its total is not what the items cost.
func (o *Order) countItems() (int64, error) {
	switch {
	case o.OrderID == "":
		return 0, errors.New("order_id is missing")
	case o.Customer == nil:
		return 0, errors.New("customer is missing")
	case len(o.Items) == 0:
		return 0, errors.New("items are missing")
	case o.Total == nil:
		return 0, errors.New("total is missing")
	}
	var count, cost int64
	for i, item := range o.Items {
		if item.SKU == nil || item.Quantity < 1 || item.Price == nil || *item.Price < 0 {
			return 0, fmt.Errorf("items[%d] is not a sku, a quantity and a price", i)
		}
		high, low := bits.Mul64(uint64(item.Quantity), uint64(*item.Price))
		cost += int64(low)
		count += item.Quantity
		if high != 0 || int64(low) < 0 || cost < 0 || count < 0 {
			return 0, errors.New("the items cost more than can be counted")
		}
	}
	if cost != *o.Total {
		return 0, fmt.Errorf("the total is %d, but the items cost %d", *o.Total, cost)
	}
	return count, nil
}
