#!lua flags=allow-oom
-- Takes parked entries whose time has come.
--
-- KEYS: stream, due set. ARGV: group, consumer, parked consumer, limit.
-- Returns: list of {entry, attempt}, number of trimmed entries, 1 if there may be more, milliseconds until the next
-- one is due or -1.

local key, due_key = KEYS[1], KEYS[2]
local group, consumer, parked, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGE', due_key, '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, limit)
local entries, trimmed = {}, 0
for _, id in ipairs(ids) do
  local pending = redis.pcall('XPENDING', key, group, id, id, 1)
  if not pending.err and pending[1] and pending[1][2] == parked then
    local claimed = redis.call('XCLAIM', key, group, consumer, 0, id)
    if claimed[1] then
      entries[#entries + 1] = { claimed[1], pending[1][4] + 1 }
    else
      redis.call('XACK', key, group, id)
      trimmed = trimmed + 1
    end
  end
  redis.call('ZREM', due_key, id)
end
local next_due = -1
local head = redis.call('ZRANGE', due_key, 0, 0, 'WITHSCORES')
if head[2] then next_due = math.max(0, tonumber(head[2]) - now) end
return { entries, trimmed, #ids == limit and 1 or 0, next_due }
