#!lua
-- Publishes events, all or none. Without the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: the streams, and the sorted set of delayed events. ARGV per event: index of its stream, or of the set, in KEYS,
-- when, number of arguments, field, value, ... or the member.
-- Returns the ids of the entries, false for events that wait.

local writes, at = {}, 1
while at <= #ARGV do
  local key, when, length = KEYS[tonumber(ARGV[at])], ARGV[at + 1], tonumber(ARGV[at + 2])
  local refused = publish_obstacle(key, when, length)
  if refused then return redis.error_reply(refused) end
  writes[#writes + 1] = { key, when, at + 3, at + 2 + length }
  at = at + 3 + length
end
local ids, why = publish_all(writes)
return ids or redis.error_reply(why)
