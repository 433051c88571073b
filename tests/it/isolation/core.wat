    ;; Looks for what somebody else has left in memory, in a table and in globals; then leaves something everywhere.
    ;; Rejects its event with the word for where it has found something, and acknowledges it if there was nothing.
    (table $table 1000 funcref)
    (global $mark (mut i64) (i64.const 0))
    (elem declare func $leave)
    (data (i32.const 64) "memory")
    (data (i32.const 80) "table ")
    (data (i32.const 96) "global")

    ;; The result that lies at 0: `reject` with the six bytes at $text.
    (func $reject (param $text i32) (result i32)
      (i32.store8 (i32.const 0) (i32.const 1))
      (i32.store8 (i32.const 8) (i32.const 2))
      (i32.store (i32.const 16) (local.get $text))
      (i32.store (i32.const 20) (i32.const 6))
      (i32.const 0))

    ;; Whether all of the memory from $at to its end is zero.
    (func $clean (param $at i32) (result i32)
      (local $end i32)
      (local.set $end (i32.shl (memory.size) (i32.const 16)))
      (block $done
        (loop $next
          (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
          (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then (return (i32.const 0))))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (br $next)))
      (i32.const 1))

    ;; Leaves a mark where WHERE says: 1 in all of that memory, 2 in the table, 4 in the global.
    (func $leave (param $at i32)
      (if (i32.and (i32.const WHERE) (i32.const 1)) (then
        (memory.fill (local.get $at) (i32.const 0x5a)
          (i32.sub (i32.shl (memory.size) (i32.const 16)) (local.get $at)))))
      (if (i32.and (i32.const WHERE) (i32.const 2)) (then
        (table.fill $table (i32.const 0) (ref.func $leave) (table.size $table))))
      (if (i32.and (i32.const WHERE) (i32.const 4)) (then (global.set $mark (i64.const 0x5a5a)))))

    (func (export "handle") (param i32) (result i32)
      (local $slot i32)
      (if (i64.ne (global.get $mark) (i64.const 0)) (then (return (call $reject (i32.const 96)))))
      ;; What was never its own as well: up to PAGES pages.
      (drop (memory.grow (i32.sub (i32.const PAGES) (memory.size))))
      ;; Behind what the host has written for this call.
      (if (i32.eqz (call $clean (i32.const 32768))) (then (return (call $reject (i32.const 64)))))
      (loop $next
        (if (i32.eqz (ref.is_null (table.get $table (local.get $slot))))
          (then (return (call $reject (i32.const 80)))))
        (local.set $slot (i32.add (local.get $slot) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $slot) (table.size $table))))
      (call $leave (i32.const 32768))
      (i32.const 0))
