// Enriches orders.
//
// Reads `order_placed`, checks the order, adds `item_count`, and publishes the result as `order_enriched` to the stream
// `orders.enriched`. All amounts are in cents.

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event_handler.h" // the contract of wit/, as C: `wasmill build` writes it to build/bindings
#include "json.h"
#include "drill.h"

typedef exports_wasmill_events_handler_event_t event_t;
typedef exports_wasmill_events_handler_delivery_t delivery_t;
typedef exports_wasmill_events_handler_failure_t failure_t;

// What the handler needs of an order. It may have further fields, which are passed on.
struct order {
    struct text order_id, customer;
    int64_t total;
    // The price list is busy when this order comes by for the first time. Shows what a retry looks like.
    bool flaky;
    // The sums over the items.
    int64_t item_count, cost;
};

// ---- Reading an order -------------------------------------------------------------------------------------------------

// Reads one item and adds it to the sums. Returns what is wrong, or NULL.
static const char *read_item(struct json *json, struct order *order) {
    struct text sku = {0}, key;
    int64_t quantity = 0, price = -1, cost;
    for (bool more = json_object(json, &key); more; more = json_next_member(json, &key)) {
        if (text_is(key, "sku")) json_string(json, &sku);
        else if (text_is(key, "quantity")) json_integer(json, &quantity);
        else if (text_is(key, "price")) json_integer(json, &price);
        else json_skip(json);
    }
    if (sku.start == NULL || quantity < 1 || price < 0) return "an item is not a sku, a quantity and a price";
    if (__builtin_mul_overflow(quantity, price, &cost) || __builtin_add_overflow(order->cost, cost, &order->cost)
        || __builtin_add_overflow(order->item_count, quantity, &order->item_count)) {
        return "the items are more than can be counted";
    }
    return NULL;
}

// Reads an order and checks it. Returns what is wrong, or NULL.
static const char *read_order(struct text data, struct order *order) {
    struct json json = json_of(data);
    struct text key;
    const char *fault = NULL;
    *order = (struct order){.total = -1};
    for (bool more = json_object(&json, &key); more; more = json_next_member(&json, &key)) {
        if (text_is(key, "order_id")) json_string(&json, &order->order_id);
        else if (text_is(key, "customer")) json_string(&json, &order->customer);
        else if (text_is(key, "total")) json_integer(&json, &order->total);
        else if (text_is(key, "flaky")) json_boolean(&json, &order->flaky);
        else if (text_is(key, "items")) {
            for (bool item = json_array(&json); item && !fault; item = json_next_item(&json)) {
                fault = read_item(&json, order);
            }
            if (fault && !json.failed) return fault;
        } else json_skip(&json);
    }
    if (!json_is_done(&json)) return "it is not JSON, or a field is not of its type";
    if (order->order_id.length == 0) return "order_id is missing";
    if (order->customer.start == NULL) return "customer is missing";
    if (order->item_count == 0) return "items are missing";
    if (order->cost != order->total) return "the total is not what the items cost";
    return NULL;
}

// ---- What comes of it -------------------------------------------------------------------------------------------------

// Never: this event goes to the dead-letter stream. The text is copied.
static bool reject(failure_t *failure, const char *problem, const char *reason) {
    char text[256];
    snprintf(text, sizeof text, "%s: %s", problem, reason);
    failure->tag = WASMILL_EVENTS_TYPES_FAILURE_REJECT;
    event_handler_string_dup(&failure->val.reject, text);
    return false;
}

// Later: this event is tried again.
static bool retry(failure_t *failure, const char *reason) {
    failure->tag = WASMILL_EVENTS_TYPES_FAILURE_RETRY;
    event_handler_string_dup(&failure->val.retry, reason);
    return false;
}

static event_handler_string_t borrowed(char *text) {
    return (event_handler_string_t){.ptr = (uint8_t *)text, .len = strlen(text)};
}

// The order as it came, with `item_count` before the brace that closes it.
static event_handler_list_u8_t with_item_count(event_handler_list_u8_t data, int64_t item_count) {
    char field[64];
    size_t length = (size_t)snprintf(field, sizeof field, ",\"item_count\":%" PRId64 "}", item_count);
    while (data.ptr[data.len - 1] != '}') data.len--; // white space
    event_handler_list_u8_t enriched = {.ptr = malloc(data.len + length), .len = data.len - 1 + length};
    if (enriched.ptr == NULL) abort();
    memcpy(enriched.ptr, data.ptr, data.len - 1);
    memcpy(enriched.ptr + data.len - 1, field, length);
    return enriched;
}

// Asks for the follow-up event, which is written only if the handler returns true.
static bool publish(event_handler_string_t order_id, event_handler_list_u8_t data, failure_t *failure) {
    wasmill_events_publisher_draft_t draft = {
        .stream = borrowed("orders.enriched"),
        .type = borrowed("order_enriched"),
        .subject = {.is_some = true, .val = order_id},
        .content_type = borrowed("application/json"),
        .data = data,
    };
    event_handler_string_t id;
    wasmill_events_publisher_publish_error_t refusal;
    if (wasmill_events_publisher_publish(&draft, &id, &refusal)) {
        event_handler_string_free(&id);
        return true;
    }
    static const char *const reasons[] = {"denied", "too large", "too many", "invalid"};
    const char *reason = reasons[refusal.tag];
    wasmill_events_publisher_publish_error_free(&refusal);
    return reject(failure, "cannot publish", reason);
}

static void log_enriched(event_handler_string_t order_id) {
    static const char start[] = "enriched order ";
    event_handler_string_t context = borrowed("enrich");
    event_handler_string_t message = {.len = sizeof start - 1 + order_id.len};
    message.ptr = malloc(message.len);
    if (message.ptr == NULL) abort();
    memcpy(message.ptr, start, sizeof start - 1);
    memcpy(message.ptr + sizeof start - 1, order_id.ptr, order_id.len);
    wasi_logging_logging_log(WASI_LOGGING_LOGGING_LEVEL_INFO, &context, &message);
    free(message.ptr);
}

static bool handle(event_t *event, const delivery_t *delivery, failure_t *failure) {
    struct order order;
    const char *fault = read_order((struct text){event->data.ptr, event->data.len}, &order);
    if (fault) return reject(failure, "malformed order", fault);
    if (order.flaky && delivery->attempt == 1) return retry(failure, "the price list is busy");

    event_handler_string_t order_id = {.ptr = malloc(order.order_id.length)};
    if (order_id.ptr == NULL) abort();
    order_id.len = text_unescape(order.order_id, order_id.ptr);
    event_handler_list_u8_t enriched = with_item_count(event->data, order.item_count);
    bool is_published = publish(order_id, enriched, failure);
    if (is_published) log_enriched(order_id);
    free(enriched.ptr);
    free(order_id.ptr);
    return is_published;
}

// Handles one event. What is returned decides alone what becomes of it: after `true` it is done, and what was published is
// written in the same step; after `false` the failure says whether it is tried again. Both arguments are owned by now.
bool exports_wasmill_events_handler_handle(event_t *event, delivery_t *delivery, failure_t *failure) {
    drill(event);
    bool is_handled = handle(event, delivery, failure);
    exports_wasmill_events_handler_event_free(event);
    exports_wasmill_events_handler_delivery_free(delivery);
    return is_handled;
}
