//! Faults on request, for the tests of wasmill: an event of type `drill` names one of them in its data.

const std = @import("std");
const contract = @import("contract");

/// Ends in the way that an event of type `drill` asks for; does nothing for any other event.
pub fn run(event: contract.exports_wasmill_events_handler_event_t) void {
    if (!std.mem.eql(u8, event.type.ptr[0..event.type.len], "drill")) return;
    const fault = event.data.ptr[0..event.data.len];
    if (std.mem.eql(u8, fault, "trap")) @panic("a drill");
    if (std.mem.eql(u8, fault, "spin")) spin();
    if (std.mem.eql(u8, fault, "hog")) hog();
}

fn spin() noreturn {
    var turns: u32 = 0;
    while (true) {
        turns +%= 1;
        std.mem.doNotOptimizeAway(turns);
    }
}

/// Takes memory, and touches it, until none is left.
fn hog() noreturn {
    while (true) {
        const kept = std.heap.c_allocator.alloc(u8, 1 << 20) catch @panic("out of memory");
        @memset(kept, 1);
        std.mem.doNotOptimizeAway(kept.ptr);
    }
}
