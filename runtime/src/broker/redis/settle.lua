#!lua
-- Applies decisions that write: acks with follow-ups, and dead letters. Each is applied whole or not at all.
-- Without the flag allow-oom, so that a full server refuses the whole call before anything is done.
--
-- KEYS: every stream that is touched.
-- ARGV: consumer, then per settlement: op, index of its stream in KEYS, group, entry id, and
--   op 'A': number of follow-ups, then per follow-up: index in KEYS, number of arguments, field, value, ...
--   op 'D': index of the dead-letter stream in KEYS, number of arguments, place of the time in them, field, value, ...
-- Returns per settlement: 1 applied, 0 superseded, or a text: refused, and why.
--
-- There is no rollback. So everything that could fail is checked for a settlement before its XACK, and nothing after
-- it may be able to fail.

local consumer = ARGV[1]
local at = 2
local verdicts = {}
local time = redis.call('TIME')
local now = string.format('%d%03d', time[1], math.floor(time[2] / 1000))

-- Why nothing can be appended to KEYS[index]; false if it can.
local function obstacle(index)
  local verdict = verdicts[index]
  if verdict ~= nil then return verdict end
  local key = KEYS[index]
  local kind = redis.call('TYPE', key).ok
  verdict = false
  if kind ~= 'none' and kind ~= 'stream' then
    verdict = 'WRONGTYPE ' .. key .. ' holds a ' .. kind .. ', not a stream'
  elseif not redis.acl_check_cmd('XADD', key, '*', 'f', 'v') then
    verdict = 'NOPERM no permission to append to ' .. key
  elseif kind == 'stream' then
    local info = redis.call('XINFO', 'STREAM', key)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' and string.sub(info[i + 1], 1, 19) == '1844674407370955161' then
        verdict = 'EXHAUSTED ' .. key .. ' has reached the greatest entry id'
      end
    end
  end
  verdicts[index] = verdict
  return verdict
end

-- Whether the entry can be acknowledged at all: a key of another type would raise an error.
local streams = {}
local function is_stream(index)
  if streams[index] == nil then streams[index] = redis.call('TYPE', KEYS[index]).ok == 'stream' end
  return streams[index]
end

local function ack(source, group, entry)
  return is_stream(source) and redis.call('XACK', KEYS[source], group, entry) == 1
end

local function settle_ack(source, group, entry)
  local count = tonumber(ARGV[at])
  at = at + 1
  local writes, refused = {}, false
  for i = 1, count do
    local target, length = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
    writes[i] = { KEYS[target], at + 2, at + 1 + length }
    refused = refused or obstacle(target)
    at = at + 2 + length
  end
  if refused then return refused end
  if not ack(source, group, entry) then return 0 end
  for _, write in ipairs(writes) do
    redis.call('XADD', write[1], '*', unpack(ARGV, write[2], write[3]))
  end
  return 1
end

local function settle_dead(source, group, entry)
  local target, length, time_at = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local first = at + 3
  at = first + length
  local refused = obstacle(target)
  if refused then return refused end
  if not is_stream(source) then return 0 end
  local pending = redis.pcall('XPENDING', KEYS[source], group, entry, entry, 1)
  if pending.err or not pending[1] or pending[1][2] ~= consumer then return 0 end
  local original = redis.call('XRANGE', KEYS[source], entry, entry)
  original = original[1] and original[1][2] or {}
  local fields = { unpack(ARGV, first, first + length - 1) }
  fields[time_at] = now
  fields[#fields + 1] = 'dl_original_fields'
  fields[#fields + 1] = tostring(#original / 2)
  -- `unpack` breaks near 8,000 values. An entry with more fields cannot be copied here: its name and number stay.
  if #original > 6000 then
    fields[#fields] = '0'
    original = {}
  end
  for _, item in ipairs(original) do fields[#fields + 1] = item end
  if not ack(source, group, entry) then return 0 end
  redis.call('XADD', KEYS[target], '*', unpack(fields))
  return 1
end

local results = {}
while at <= #ARGV do
  local op, source, group, entry = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  if op == 'A' then
    results[#results + 1] = settle_ack(source, group, entry)
  else
    results[#results + 1] = settle_dead(source, group, entry)
  end
end
return results
