#!lua
-- Appends what an intake has heard, all or none, and writes down how far it has come, if the owner has the lease. Without
-- the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: stream, lease, position. ARGV: owner, for how long to keep the lease in milliseconds, position, then per event:
-- 1 (the place of the stream in KEYS), when (now), number of arguments, field, value, ...
-- Returns 1 if written, 0 if somebody else has the lease.

if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local at = 4
while at <= #ARGV do
  local refused = publish_obstacle(KEYS[1], ARGV[at + 1], tonumber(ARGV[at + 2]))
  if refused then return redis.error_reply(refused) end
  at = at + 3 + tonumber(ARGV[at + 2])
end
-- First, as it could fail: everything else then has to succeed.
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
at = 4
while at <= #ARGV do
  local last = at + 2 + tonumber(ARGV[at + 2])
  publish(KEYS[1], ARGV[at + 1], at + 3, last)
  at = last + 1
end
return 1
