-- Put before the scripts that append to streams, behind their first line.

-- Why nothing can be appended to the stream `key`, as far as that can be seen before it is tried; false if nothing is in
-- the way. Looks once per key and call.
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

-- The streams that this call has appended to: nothing is in the way of more. Not those whose ids soon run out.
local proven = {}

-- Whether entries cannot be taken back from the stream: nobody may delete from one of another tenant.
local firm = {}
local function is_firm(key)
  if firm[key] == nil then firm[key] = not redis.acl_check_cmd('XDEL', key, '0-1') end
  return firm[key]
end

-- Appends to a stream without obstacle: the id of the entry, or nil and why not. That ids have run out is only found by
-- trying: XINFO STREAM would say so before, but copies the first and the last entry, however large they are.
local function append(key, ...)
  local id = redis.pcall('XADD', key, '*', ...)
  if type(id) == 'table' then return nil, id.err .. ' (XADD ' .. key .. ')' end
  proven[key] = string.sub(id, 1, 19) ~= '1844674407370955161'
  return id
end

-- Whether nothing is in the way of these: see `publish_all`.
local function are_proven(writes)
  for _, write in ipairs(writes) do
    if write[2] == '' and not proven[write[1]] then return false end
  end
  return true
end

-- Reads events from ARGV[at] on, `count` of them or all that are left: index of the key in KEYS, when, number of arguments,
-- arguments. Returns them for `publish_all`, `refused` or else why the first one that is refused is, and the place behind.
local function read_writes(at, count, refused)
  local writes = {}
  while at <= #ARGV and #writes < count do
    local key, when, length = KEYS[tonumber(ARGV[at])], ARGV[at + 1], tonumber(ARGV[at + 2])
    refused = refused or publish_obstacle(key, when, length)
    writes[#writes + 1] = { key, when, at + 3, at + 2 + length }
    at = at + 3 + length
  end
  return writes, refused, at
end

-- Publishes events without obstacle, all or none. Each is { key, when, first, last }: ARGV[first] to ARGV[last] are
-- appended as fields and values; or, with `when` '+' and milliseconds from now, or '=' and milliseconds since the epoch,
-- the member ARGV[first] waits, and stays as it is if it waits already.
-- Returns the ids of the entries, false for events that wait; or nil and why not.
local function publish_all(writes)
  local ids = {}
  for i = 1, #writes do ids[i] = false end
  -- What cannot be taken back comes last. Only of several such streams an earlier one may keep what a later one refuses.
  for _, wants_firm in ipairs({ false, true }) do
    for i, write in ipairs(writes) do
      if write[2] == '' and is_firm(write[1]) == wants_firm then
        local id, why = append(write[1], unpack(ARGV, write[3], write[4]))
        if not id then
          for other, written in ipairs(ids) do
            if written then redis.pcall('XDEL', writes[other][1], written) end
          end
          return nil, why
        end
        ids[i] = id
      end
    end
  end
  for _, write in ipairs(writes) do
    local key, when = write[1], write[2]
    if when ~= '' then
      local due = tonumber(string.sub(when, 2))
      if string.sub(when, 1, 1) == '+' then
        local time = redis.call('TIME')
        due = due + time[1] * 1000 + math.floor(time[2] / 1000)
      end
      redis.call('ZADD', key, 'NX', string.format('%.0f', due), ARGV[write[3]])
    end
  end
  return ids
end
