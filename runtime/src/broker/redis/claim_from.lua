#!lua flags=allow-oom
-- Takes the pending entries of another consumer, oldest first, or one's own after their handing out was not answered.
-- The first counts as an attempt, the second does not: what was lost on the way has not been run. An entry that had
-- been handed out twice or more before may be what killed its worker: it is taken alone.
--
-- KEYS: stream. ARGV: group, consumer, the other consumer, limit.
-- Returns: list of {entry, attempt}, number of trimmed entries, 1 if there may be more.

local key = KEYS[1]
local group, consumer, from, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local pending = redis.call('XPENDING', key, group, '-', '+', limit + 1, from)
local entries, trimmed, more = {}, 0, 0
for i, info in ipairs(pending) do
  local id = info[1]
  local attempt = from == consumer and info[4] or info[4] + 1
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
