#!lua
-- Writes a field of a hash if it still is what the caller saw, and counts that.
--
-- KEYS: hash, counter. ARGV: field, before ('' for none), after. Returns 1 if it was written.

local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('INCR', KEYS[2])
return 1
