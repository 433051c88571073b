#!lua flags=allow-oom
-- Parks entries until another attempt is due. Allowed when memory is full: draining must go on.
--
-- KEYS: streams and their due sets. ARGV: consumer, parked consumer, then per settlement: index of its stream in
-- KEYS, group, entry id, index of the due set in KEYS, pause in milliseconds.
-- Returns per settlement: 1 parked, 0 superseded.

local consumer, parked = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local results = {}
for at = 3, #ARGV, 5 do
  local key, group, entry = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  local due_key, pause = KEYS[tonumber(ARGV[at + 3])], tonumber(ARGV[at + 4])
  local pending = redis.pcall('XPENDING', key, group, entry, entry, 1)
  local applied = 0
  if not pending.err and pending[1] and pending[1][2] == consumer then
    -- The due time first: if it cannot be written, the entry stays where it is. A due time too many does no harm.
    redis.call('ZADD', due_key, string.format('%.0f', now + pause), entry)
    -- JUSTID: handing over to the parked consumer is no attempt.
    redis.call('XCLAIM', key, group, parked, 0, entry, 'JUSTID')
    applied = 1
  end
  results[#results + 1] = applied
end
return results
