#!lua
-- Publishes events, all or none. Without the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: the streams, and the sorted set of delayed events. ARGV per event: index of its stream, or of the set, in KEYS,
-- when, number of arguments, field, value, ... or the member.
-- Returns the ids of the entries, false for events that wait.

local writes, refused = read_writes(1, math.huge, false)
if refused then return redis.error_reply(refused) end
local ids, why = publish_all(writes)
return ids or redis.error_reply(why)
