#!lua
-- Changes the state of a handler from outside. Deliveries that have read it and are not settled find it changed.
--
-- KEYS: the state, sizes of the tenant's states. ARGV: handler, quota or '', 1 to set or 0 to delete, key, value.
-- Returns 1 if the key was there, 0 if not, or 2 if that is more than the quota: then nothing is written.

local hash, sizes, handler, is_set, key = KEYS[1], KEYS[2], ARGV[1], ARGV[3] == '1', ARGV[4]
local refused = state_obstacle(hash, sizes, handler)
if refused then return redis.error_reply(refused) end
local before = bytes_of(hash, key)
local more = (is_set and #key + #ARGV[5] or 0) - before
if is_over_quota(sizes, ARGV[2], more) then return 2 end
write_value(hash, key, is_set, ARGV[5])
grow(sizes, handler, more)
return before > 0 and 1 or 0
