//! Enriches orders.
//!
//! Reads `order_placed`, checks the order, adds `item_count`, and publishes the result as `order_enriched` to the stream
//! `orders.enriched`. All amounts are in cents.

const std = @import("std");
/// The contract of wit/, as C: `wasmill build` writes it to build/bindings.
const contract = @import("contract");
const drill = @import("drill.zig");

const Event = contract.exports_wasmill_events_handler_event_t;
const Delivery = contract.exports_wasmill_events_handler_delivery_t;
const String = contract.event_handler_string_t;

/// What the handler needs of an order. It may have further fields, which are passed on.
const Order = struct {
    order_id: Text,
    customer: Text,
    items: []const Item,
    total: Whole,
    /// The price list is busy when this order comes by for the first time. Shows what a retry looks like.
    flaky: bool = false,

    const Item = struct { sku: Text, quantity: Whole, price: Whole };

    /// Checks what the types do not say; returns how many things were ordered.
    fn countItems(order: Order) error{ NoOrderId, NoItems, QuantityOfNothing, Overflow, WrongTotal }!u64 {
        if (order.order_id.value.len == 0) return error.NoOrderId;
        if (order.items.len == 0) return error.NoItems;
        var count: u64 = 0;
        var cost: u64 = 0;
        for (order.items) |item| {
            if (item.quantity.value == 0) return error.QuantityOfNothing;
            cost = try std.math.add(u64, cost, try std.math.mul(u64, item.quantity.value, item.price.value));
            count = try std.math.add(u64, count, item.quantity.value);
        }
        return if (cost == order.total.value) count else error.WrongTotal;
    }
};

/// A whole number that is written as one: std.json would take "2" and 2.0 as well.
const Whole = struct {
    value: u64,

    pub fn jsonParse(allocator: std.mem.Allocator, source: anytype, options: std.json.ParseOptions) !Whole {
        if (try source.peekNextTokenType() != .number) return error.UnexpectedToken;
        return .{ .value = try std.json.innerParse(u64, allocator, source, options) };
    }
};

/// A text that is written as one: std.json would take a list of bytes as well, which need not be UTF-8.
const Text = struct {
    value: []const u8,

    pub fn jsonParse(allocator: std.mem.Allocator, source: anytype, options: std.json.ParseOptions) !Text {
        if (try source.peekNextTokenType() != .string) return error.UnexpectedToken;
        return .{ .value = try std.json.innerParse([]const u8, allocator, source, options) };
    }
};

/// What becomes of an event that was not handled: it is tried again, or never.
const Failure = union(enum) { retry: []const u8, reject: []const u8 };

/// Handles one event, and says why if it could not be handled. Memory of the arena lives until the event is done.
fn handle(arena: std.mem.Allocator, event: Event, delivery: Delivery) !?Failure {
    const data = event.data.ptr[0..event.data.len];
    const order = std.json.parseFromSliceLeaky(Order, arena, data, .{ .ignore_unknown_fields = true }) catch |err| switch (err) {
        error.OutOfMemory => return err,
        else => return try malformed(arena, err),
    };
    const item_count = order.countItems() catch |err| return try malformed(arena, err);
    if (order.flaky and delivery.attempt == 1) return .{ .retry = "the price list is busy" };

    // The order as it came, with one more field before the brace that closes it.
    const fields = data[0..std.mem.lastIndexOfScalar(u8, data, '}').?];
    const enriched = try std.fmt.allocPrint(arena, "{s},\"item_count\":{d}}}", .{ fields, item_count });
    if (publish(order.order_id.value, enriched)) |refusal| {
        return .{ .reject = try std.fmt.allocPrint(arena, "cannot publish: {s}", .{refusal}) };
    }
    log(try std.fmt.allocPrint(arena, "enriched order {s}", .{order.order_id.value}));
    return null;
}

/// An order like this will never be right, so it is not tried again.
fn malformed(arena: std.mem.Allocator, reason: anyerror) !Failure {
    return .{ .reject = try std.fmt.allocPrint(arena, "malformed order: {s}", .{@errorName(reason)}) };
}

/// Asks for the follow-up event, which is written only if the handler returns no failure. Why it was refused, if it was.
fn publish(order_id: []const u8, data: []const u8) ?[]const u8 {
    var draft = std.mem.zeroInit(contract.wasmill_events_publisher_draft_t, .{
        .stream = borrowed("orders.enriched"),
        .type = borrowed("order_enriched"),
        .content_type = borrowed("application/json"),
    });
    draft.subject = .{ .is_some = true, .val = borrowed(order_id) };
    draft.data = .{ .ptr = @constCast(data.ptr), .len = data.len };

    var id: String = undefined;
    var refusal: contract.wasmill_events_publisher_publish_error_t = undefined;
    if (contract.wasmill_events_publisher_publish(&draft, &id, &refusal)) {
        contract.event_handler_string_free(&id);
        return null;
    }
    defer contract.wasmill_events_publisher_publish_error_free(&refusal);
    return ([_][]const u8{ "denied", "too large", "too many", "invalid" })[refusal.tag];
}

fn log(message: []const u8) void {
    var context = borrowed("enrich");
    var text = borrowed(message);
    contract.wasi_logging_logging_log(contract.WASI_LOGGING_LOGGING_LEVEL_INFO, &context, &text);
}

/// Texts pass to the host without being copied.
fn borrowed(text: []const u8) String {
    return .{ .ptr = @constCast(text.ptr), .len = text.len };
}

/// What wasmill calls. What is returned decides alone what becomes of the event: after `true` it is done, and what was
/// published is written in the same step; after `false` the failure says whether it is tried again.
export fn exports_wasmill_events_handler_handle(
    event: *Event,
    delivery: *Delivery,
    out: *contract.exports_wasmill_events_handler_failure_t,
) bool {
    drill.run(event.*);
    defer contract.exports_wasmill_events_handler_event_free(event);
    defer contract.exports_wasmill_events_handler_delivery_free(delivery);
    var arena: std.heap.ArenaAllocator = .init(std.heap.c_allocator);
    defer arena.deinit();

    const failure = handle(arena.allocator(), event.*, delivery.*) catch @panic("out of memory");
    const tag, const reason = switch (failure orelse return true) {
        .retry => |reason| .{ contract.WASMILL_EVENTS_TYPES_FAILURE_RETRY, reason },
        .reject => |reason| .{ contract.WASMILL_EVENTS_TYPES_FAILURE_REJECT, reason },
    };
    out.tag = @intCast(tag);
    // Both cases hold a text, which the host has to get as a copy of its own.
    contract.event_handler_string_dup_n(&out.val.reject, reason.ptr, reason.len);
    return false;
}
