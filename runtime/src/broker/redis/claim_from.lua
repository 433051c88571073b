#!lua flags=allow-oom
-- Takes the pending entries of another consumer, oldest first, or one's own after their handing out was not answered.
-- The first counts as an attempt, the second does not: what was lost on the way has not been run. An entry that had
-- been handed out twice or more before may be what killed its worker: it is taken alone.
--
-- Of another program that may be alive, only what has been idle long enough is taken, and its attempts do not count.
--
-- KEYS: stream. ARGV: group, consumer, the other consumer, limit, for how long it must have been idle in milliseconds if
-- it belongs to another program, else 0.
-- Returns: list of {entry, attempt}, number of trimmed entries, 1 if there may be more.

local key = KEYS[1]
local group, consumer, from, limit, min_idle = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local pending
if min_idle > 0 then
  pending = redis.call('XPENDING', key, group, 'IDLE', ARGV[5], '-', '+', limit + 1, from)
else
  pending = redis.call('XPENDING', key, group, '-', '+', limit + 1, from)
end
local entries, trimmed, more = {}, 0, 0
for i, info in ipairs(pending) do
  local id = info[1]
  local attempt = info[4] + 1
  if from == consumer then attempt = info[4] end
  if min_idle > 0 then attempt = 1 end
  local suspect = attempt > 2
  if #entries == limit or (suspect and #entries > 0) then
    more = 1
    break
  end
  local claimed = redis.call('XCLAIM', key, group, consumer, 0, id, 'RETRYCOUNT', attempt)
  if claimed[1] then
    entries[#entries + 1] = { claimed[1], attempt }
    if suspect then
      more = i < #pending and 1 or 0
      break
    end
  else
    redis.call('XACK', key, group, id)
    trimmed = trimmed + 1
  end
end
-- More was there than was looked at, whatever became of what was looked at.
if #pending > limit then more = 1 end
return { entries, trimmed, more }
