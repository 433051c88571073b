#!lua flags=allow-oom
-- Deletes the state of a handler. Allowed when memory is full: it makes room.
--
-- KEYS: the state, sizes of the tenant's states. ARGV: handler. Returns how many keys there were.

local hash, sizes, handler = KEYS[1], KEYS[2], ARGV[1]
local refused = state_obstacle(hash, sizes, handler)
if not refused and not redis.acl_check_cmd('UNLINK', hash) then refused = 'NOPERM no permission to unlink ' .. hash end
if refused then return redis.error_reply(refused) end
local count = redis.call('HLEN', hash)
redis.call('UNLINK', hash)
redis.call('HDEL', sizes, handler)
return count
