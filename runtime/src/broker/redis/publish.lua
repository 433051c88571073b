#!lua
-- Publishes events, all or none. Without the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: the streams, and the sorted set of delayed events. ARGV per event: index of its stream, or of the set, in KEYS,
-- when, number of arguments, field, value, ... or the member.
-- Returns the ids of the entries, false for events that wait.

local at = 1
while at <= #ARGV do
  local refused = publish_obstacle(KEYS[tonumber(ARGV[at])], ARGV[at + 1], tonumber(ARGV[at + 2]))
  if refused then return redis.error_reply(refused) end
  at = at + 3 + tonumber(ARGV[at + 2])
end
local ids = {}
at = 1
while at <= #ARGV do
  local last = at + 2 + tonumber(ARGV[at + 2])
  ids[#ids + 1] = publish(KEYS[tonumber(ARGV[at])], ARGV[at + 1], at + 3, last)
  at = last + 1
end
return ids
