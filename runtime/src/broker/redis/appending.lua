-- Put before the scripts that append to streams, behind their first line.

-- Why nothing can be appended to the stream `key`; false if it can. Looks once per key and call.
local verdicts = {}
local function obstacle(key)
  local verdict = verdicts[key]
  if verdict ~= nil then return verdict end
  verdict = false
  local kind = redis.call('TYPE', key).ok
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
  verdicts[key] = verdict
  return verdict
end

-- `unpack` breaks near 8,000 values, and would do so when other things have been written already. wasmill writes fewer.
local MAX_VALUES = 6000

-- The same for an event with `length` fields and values: with `when` == '' it is appended to the stream `key`, else it
-- waits in the sorted set `key`.
local function publish_obstacle(key, when, length)
  if length > MAX_VALUES then return 'ERR an event for ' .. key .. ' has more fields than a script can write' end
  if when == '' then return obstacle(key) end
  if verdicts[key] == nil then
    local kind, verdict = redis.call('TYPE', key).ok, false
    if kind ~= 'none' and kind ~= 'zset' then
      verdict = 'WRONGTYPE ' .. key .. ' holds a ' .. kind .. ', not a sorted set'
    elseif not redis.acl_check_cmd('ZADD', key, '1', 'm') then
      verdict = 'NOPERM no permission to add to ' .. key
    end
    verdicts[key] = verdict
  end
  return verdicts[key]
end

-- Appends ARGV[first] to ARGV[last] as fields and values, and returns the id of the entry; or, with `when` '+' and
-- milliseconds from now, or '=' and milliseconds since the epoch, lets the member ARGV[first] wait, and returns false.
-- One that waits already stays as it is.
local function publish(key, when, first, last)
  if when == '' then return redis.call('XADD', key, '*', unpack(ARGV, first, last)) end
  local due = tonumber(string.sub(when, 2))
  if string.sub(when, 1, 1) == '+' then
    local time = redis.call('TIME')
    due = due + time[1] * 1000 + math.floor(time[2] / 1000)
  end
  redis.call('ZADD', key, 'NX', string.format('%.0f', due), ARGV[first])
  return false
end
