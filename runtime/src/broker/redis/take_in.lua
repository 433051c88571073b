#!lua
-- Appends what an intake has heard, all or none, and writes down how far it has come, if the owner has the lease. Without
-- the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: stream, lease, position. ARGV: owner, for how long to keep the lease in milliseconds, position, then per event:
-- 1 (the place of the stream in KEYS), number of arguments, field, value, ...
-- Returns 1 if written, 0 if somebody else has the lease.

local key = KEYS[1]
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local kind = redis.call('TYPE', key).ok
if kind ~= 'none' and kind ~= 'stream' then
  return redis.error_reply('WRONGTYPE ' .. key .. ' holds a ' .. kind .. ', not a stream')
end
if not redis.acl_check_cmd('XADD', key, '*', 'f', 'v') then
  return redis.error_reply('NOPERM no permission to append to ' .. key)
end
if kind == 'stream' then
  local info = redis.call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' and string.sub(info[i + 1], 1, 19) == '1844674407370955161' then
      return redis.error_reply('ERR ' .. key .. ' has reached the greatest entry id')
    end
  end
end
-- First, as it could fail: everything else then has to succeed.
redis.call('SET', KEYS[3], ARGV[3])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
local at = 4
while at <= #ARGV do
  local length = tonumber(ARGV[at + 1])
  redis.call('XADD', key, '*', unpack(ARGV, at + 2, at + 1 + length))
  at = at + 2 + length
end
return 1
