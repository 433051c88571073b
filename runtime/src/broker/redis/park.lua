#!lua flags=allow-oom
-- Parks entries until another attempt is due. Allowed when memory is full: draining must go on.
--
-- KEYS: streams and their due sets. ARGV: consumer, parked consumer, then per settlement: index of its stream in
-- KEYS, group, entry id, index of the due set in KEYS, pause in milliseconds.
-- Returns per settlement: 1 parked, 0 superseded, or a text: refused, and why.

local consumer, parked = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function park(key, group, entry, due_key, pause)
  if redis.call('TYPE', key).ok ~= 'stream' then return 0 end
  local pending = redis.pcall('XPENDING', key, group, entry, entry, 1)
  -- A group that is gone has nothing pending.
  if pending.err then return string.sub(pending.err, 1, 7) == 'NOGROUP' and 0 or pending.err .. ' (XPENDING ' .. key .. ')' end
  if not pending[1] or pending[1][2] ~= consumer then return 0 end
  -- The due time first: if it cannot be written, the entry stays where it is. A due time too many does no harm.
  local added = redis.pcall('ZADD', due_key, string.format('%.0f', now + pause), entry)
  if type(added) == 'table' then return added.err .. ' (ZADD ' .. due_key .. ')' end
  -- JUSTID: handing over to the parked consumer is no attempt.
  local claimed = redis.pcall('XCLAIM', key, group, parked, 0, entry, 'JUSTID')
  return claimed.err and claimed.err .. ' (XCLAIM ' .. key .. ')' or 1
end

local results = {}
for at = 3, #ARGV, 5 do
  local key, due_key = KEYS[tonumber(ARGV[at])], KEYS[tonumber(ARGV[at + 3])]
  results[#results + 1] = park(key, ARGV[at + 1], ARGV[at + 2], due_key, tonumber(ARGV[at + 4]))
end
return results
