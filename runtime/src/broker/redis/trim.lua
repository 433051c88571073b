#!lua flags=allow-oom
-- Removes the oldest entries of a stream, never one that a group has not settled. Allowed when memory is full: trimming
-- is what helps.
--
-- KEYS: the stream. ARGV: the most entries to keep ('' any number), the greatest age in milliseconds ('' any), and the
-- most entries to remove in this call, near enough.
-- Returns how many were removed, how many are left, 1 if there may be more to remove right now, and the name of the
-- group that holds back what should have been removed ('' if none).

-- How many entries a node of a stream has at most, unless the server is configured otherwise.
local NODE = 100

local key = KEYS[1]
local max_length, max_age, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('XLEN', key) == 0 then return { 0, 0, 0, '' } end

local function parts(id)
  local dash = string.find(id, '-', 1, true)
  return string.sub(id, 1, dash - 1), string.sub(id, dash + 1)
end

-- Numbers up to 2^64 as texts, since a Lua number is not exact beyond 2^53.
local function less(a, b)
  local a_ms, a_seq = parts(a)
  local b_ms, b_seq = parts(b)
  if #a_ms ~= #b_ms then return #a_ms < #b_ms end
  if a_ms ~= b_ms then return a_ms < b_ms end
  if #a_seq ~= #b_seq then return #a_seq < #b_seq end
  return a_seq < b_seq
end

-- The next id; the same one where that cannot be told, which only means that one entry stays.
local function after(id)
  local ms, seq = parts(id)
  if #seq > 15 then return id end
  return ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end

-- Everything before `bound` has been settled by all groups; `holder` is the group that is furthest behind.
local bound, holder = nil, ''
for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
  local info = {}
  for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
  local own = after(info['last-delivered-id'])
  if info.pending > 0 then own = redis.call('XPENDING', key, info.name)[2] end
  if not bound or less(own, bound) then bound, holder = own, info.name end
end

-- Removes whole nodes before `upto`, which is cheap, and at most `count` entries.
local function nodes(upto, count)
  return redis.call('XTRIM', key, 'MINID', '~', upto, 'LIMIT', count)
end

local function lower(id)
  if bound and less(bound, id) then return bound end
  return id
end

local removed, more = 0, 0
local oldest = nil
if max_age then
  local time = redis.call('TIME')
  local ms = time[1] * 1000 + math.floor(time[2] / 1000) - max_age
  if ms > 0 then oldest = string.format('%.0f-0', ms) end
end
if oldest then
  removed = nodes(lower(oldest), limit)
  if removed > 0 then more = 1 else removed = redis.call('XTRIM', key, 'MINID', '=', lower(oldest)) end
end
local excess = max_length and redis.call('XLEN', key) - max_length or 0
if excess > 0 and more == 0 then
  local last = '18446744073709551615-18446744073709551615'
  local count = nodes(lower(last), math.min(excess, limit))
  if count > 0 then
    more = 1
  else
    -- Less than a node is too many: so few entries can be looked at one by one.
    local place = math.min(excess, NODE) + 1
    local kept = redis.call('XRANGE', key, '-', '+', 'COUNT', place)[place]
    count = redis.call('XTRIM', key, 'MINID', '=', lower(kept and kept[1] or last))
    if count == NODE and excess > NODE then more = 1 end
  end
  removed = removed + count
end
local length = redis.call('XLEN', key)
if more == 1 or not bound then return { removed, length, more, '' } end
local late = max_length and length > max_length
late = late or (oldest and #redis.call('XRANGE', key, '-', '(' .. oldest, 'COUNT', 1) > 0)
return { removed, length, 0, late and holder or '' }
