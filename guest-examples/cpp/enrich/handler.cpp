// Enriches orders.
//
// Reads `order_placed`, checks the order, adds `item_count`, and publishes the result as `order_enriched` to the stream
// `orders.enriched`. All amounts are in cents.

#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "event_handler.h" // the contract of wit/, as C: `wasmill build` writes it to build/bindings
#include "json.hpp"
#include "drill.hpp"

namespace {

using Event = exports_wasmill_events_handler_event_t;
using Delivery = exports_wasmill_events_handler_delivery_t;

// What becomes of an event that was not handled: it is tried again, or never.
struct Failure {
    enum class Kind : std::uint8_t {
        retry = WASMILL_EVENTS_TYPES_FAILURE_RETRY,
        reject = WASMILL_EVENTS_TYPES_FAILURE_REJECT,
    } kind;
    std::string reason;
};

struct Item {
    std::int64_t quantity, price;
};

// What the handler needs of an order. It may have further fields, which are passed on.
struct Order {
    std::string order_id;
    std::vector<Item> items;
    std::int64_t total;
    // The price list is busy when this order comes by for the first time. Shows what a retry looks like.
    bool flaky;
};

// ---- Reading an order -------------------------------------------------------------------------------------------------

std::expected<Order, std::string> parse_order(std::string_view data) {
    std::optional<std::string> order_id, customer;
    std::optional<std::int64_t> total;
    std::vector<Item> items;
    bool flaky = false, has_all_of_items = true;

    json::Reader json(data);
    const auto item = [&] {
        std::optional<std::string> sku;
        std::optional<std::int64_t> quantity, price;
        json.object([&](std::string_view key) {
            if (key == "sku") sku = json.string();
            else if (key == "quantity") quantity = json.integer();
            else if (key == "price") price = json.integer();
            else json.skip();
        });
        has_all_of_items &= sku && quantity && price;
        items.push_back({quantity.value_or(0), price.value_or(0)});
    };
    json.object([&](std::string_view key) {
        if (key == "order_id") order_id = json.string();
        else if (key == "customer") customer = json.string();
        else if (key == "items") json.array(item);
        else if (key == "total") total = json.integer();
        else if (key == "flaky") flaky = json.boolean().value_or(false);
        else json.skip();
    });

    if (!json.done()) return std::unexpected("it is not JSON, or a field is not of its type");
    if (order_id.value_or("").empty()) return std::unexpected("order_id is missing");
    if (!customer) return std::unexpected("customer is missing");
    if (items.empty()) return std::unexpected("items are missing");
    if (!has_all_of_items) return std::unexpected("an item is not a sku, a quantity and a price");
    if (!total) return std::unexpected("total is missing");
    return Order{std::move(*order_id), std::move(items), *total, flaky};
}

// Checks what the types do not say; returns how many things were ordered.
std::expected<std::int64_t, std::string> count_items(const Order &order) {
    std::int64_t count = 0, sum = 0;
    for (const auto &[quantity, price] : order.items) {
        if (quantity < 1) return std::unexpected("a quantity is less than 1");
        if (price < 0) return std::unexpected("a price is less than 0");
        std::int64_t cost = 0;
        if (__builtin_mul_overflow(quantity, price, &cost) || __builtin_add_overflow(sum, cost, &sum)
            || __builtin_add_overflow(count, quantity, &count)) {
            return std::unexpected("the items are more than can be counted");
        }
    }
    if (sum != order.total) {
        return std::unexpected("the total is " + std::to_string(order.total) + ", but the items cost " + std::to_string(sum));
    }
    return count;
}

// ---- What comes of it -------------------------------------------------------------------------------------------------

// Texts pass to the host without being copied.
event_handler_string_t borrowed(std::string_view text) {
    return {reinterpret_cast<std::uint8_t *>(const_cast<char *>(text.data())), text.size()};
}

// Asks for the follow-up event. It is written only if the handler returns without a failure.
std::expected<void, Failure> publish(std::string_view order_id, std::string_view data) {
    wasmill_events_publisher_draft_t draft{};
    draft.stream = borrowed("orders.enriched");
    draft.type = borrowed("order_enriched");
    draft.subject = {true, borrowed(order_id)};
    draft.content_type = borrowed("application/json");
    draft.data = {borrowed(data).ptr, data.size()};

    event_handler_string_t id;
    wasmill_events_publisher_publish_error_t refusal;
    if (wasmill_events_publisher_publish(&draft, &id, &refusal)) {
        event_handler_string_free(&id);
        return {};
    }
    static constexpr std::string_view reasons[] = {"denied", "too large", "too many", "invalid"};
    std::string problem = "cannot publish: ";
    problem += reasons[refusal.tag];
    wasmill_events_publisher_publish_error_free(&refusal);
    return std::unexpected(Failure{Failure::Kind::reject, std::move(problem)});
}

void log(std::string_view message) {
    auto context = borrowed("enrich"), text = borrowed(message);
    wasi_logging_logging_log(WASI_LOGGING_LOGGING_LEVEL_INFO, &context, &text);
}

std::expected<void, Failure> handle(const Event &event, const Delivery &delivery) {
    const std::string_view data(reinterpret_cast<const char *>(event.data.ptr), event.data.len);
    const auto malformed = [](const std::string &reason) {
        return Failure{Failure::Kind::reject, "malformed order: " + reason};
    };
    const auto order = parse_order(data);
    if (!order) return std::unexpected(malformed(order.error()));
    const auto item_count = count_items(*order);
    if (!item_count) return std::unexpected(malformed(item_count.error()));
    if (order->flaky && delivery.attempt == 1) {
        return std::unexpected(Failure{Failure::Kind::retry, "the price list is busy"});
    }

    // The order as it came, with one more field before the brace that closes it.
    std::string enriched(data.substr(0, data.rfind('}')));
    enriched += ",\"item_count\":" + std::to_string(*item_count) + "}";
    if (const auto published = publish(order->order_id, enriched); !published) return published;
    log("enriched order " + order->order_id);
    return {};
}

} // namespace

// Handles one event. What is returned decides alone what becomes of it: after `true` it is done, and what was published is
// written in the same step; after `false` the failure says whether it is tried again. Both arguments are owned by now.
bool exports_wasmill_events_handler_handle(Event *event, Delivery *delivery, exports_wasmill_events_handler_failure_t *out) {
    drill(*event);
    const auto handled = handle(*event, *delivery);
    exports_wasmill_events_handler_event_free(event);
    exports_wasmill_events_handler_delivery_free(delivery);
    if (handled) return true;
    const auto &[kind, reason] = handled.error();
    out->tag = static_cast<std::uint8_t>(kind);
    // Both cases hold a text, which the host has to get as a copy of its own.
    event_handler_string_dup_n(&out->val.reject, reason.data(), reason.size());
    return false;
}
