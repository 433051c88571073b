-- Put before the scripts that append to streams, behind their first line.

-- The most names and values of an entry: `unpack` breaks near 8,000, after the call has begun to write.
local MAX_VALUES = 6000

-- Why so many values cannot be appended to the stream `key`; false if they can.
local function width_obstacle(key, values)
  return values > MAX_VALUES and 'TOOMANY ' .. key .. ' cannot take an entry of ' .. math.floor(values / 2)
    .. ' fields, but of ' .. MAX_VALUES / 2 .. ' at most'
end

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

-- The same for an event of so many values: with `when` == '' it is appended to the stream `key`, else it waits in the
-- sorted set `key`.
local function publish_obstacle(key, when, values)
  if when == '' then return obstacle(key) or width_obstacle(key, values) end
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
