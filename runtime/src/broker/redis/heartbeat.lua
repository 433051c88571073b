#!lua flags=allow-oom
-- Says that a worker is alive. Allowed when memory is full: a living worker must not be taken for a dead one.
--
-- KEYS: heartbeat, set of workers. ARGV: for how long, in milliseconds; the worker; what it says of itself, if that
-- is other than before. Returns 0 if it says nothing and was taken for dead.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] then
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[1])
elseif redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[1]), ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - 60000))
return 1
