#!lua flags=allow-oom
-- Says that a worker is alive. Allowed when memory is full: a living worker must not be taken for a dead one.
--
-- KEYS: heartbeat. ARGV: for how long, in milliseconds.

redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
return 1
