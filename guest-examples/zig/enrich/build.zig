//! `wasmill build` writes build/bindings from wit/, runs `zig build`, and makes a component of build/core.wasm.
const std = @import("std");

pub fn build(b: *std.Build) void {
    const target = b.resolveTargetQuery(.{ .cpu_arch = .wasm32, .os_tag = .wasi });
    const optimize = std.builtin.OptimizeMode.ReleaseFast;

    // The contract of wit/, from C to Zig.
    const bindings = b.addTranslateC(.{
        .root_source_file = b.path("build/bindings/event_handler.h"),
        .target = target,
        .optimize = optimize,
    });
    const handler = b.createModule(.{
        .root_source_file = b.path("handler.zig"),
        .target = target,
        .optimize = optimize,
        .link_libc = true,
        .strip = true,
        .imports = &.{.{ .name = "contract", .module = bindings.createModule() }},
    });
    handler.addCSourceFile(.{ .file = b.path("build/bindings/event_handler.c") });
    handler.addObjectFile(b.path("build/bindings/event_handler_component_type.o"));

    const module = b.addExecutable(.{ .name = "enrich", .root_module = handler });
    // A reactor is a library: it has no main. Zig's own stack is 16 MiB, which makes every new instance dear.
    module.wasi_exec_model = .reactor;
    module.entry = .disabled;
    module.stack_size = 128 * 1024;
    b.getInstallStep().dependOn(&b.addInstallFile(module.getEmittedBin(), "core.wasm").step);
}
