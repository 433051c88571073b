#!lua
-- Appends what an intake has heard, all or none, and writes down how far it has come, if the owner has the lease. Without
-- the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: stream, lease, position. ARGV: owner, for how long to keep the lease in milliseconds, position, then per event:
-- 1 (the place of the stream in KEYS), when (now), number of arguments, field, value, ...
-- Returns 1 if written, 0 if somebody else has the lease.

if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local writes, refused = read_writes(4, math.huge, false)
if refused then return redis.error_reply(refused) end
for _, key in ipairs({ KEYS[2], KEYS[3] }) do
  if not redis.acl_check_cmd('SET', key, '1', 'PX', '1') then return redis.error_reply('NOPERM no permission to set ' .. key) end
end
local ids, why = publish_all(writes)
if not ids then return redis.error_reply(why) end
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
