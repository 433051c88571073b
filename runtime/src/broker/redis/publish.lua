#!lua
-- Appends events, all or none. Without the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: the streams. ARGV per event: index of its stream in KEYS, number of arguments, field, value, ...
-- Returns the ids of the entries.

for _, key in ipairs(KEYS) do
  local refused = obstacle(key)
  if refused then return redis.error_reply(refused) end
end
local ids, at = {}, 1
while at <= #ARGV do
  local key, length = KEYS[tonumber(ARGV[at])], tonumber(ARGV[at + 1])
  ids[#ids + 1] = redis.call('XADD', key, '*', unpack(ARGV, at + 2, at + 1 + length))
  at = at + 2 + length
end
return ids
