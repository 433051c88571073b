-- Put before the scripts that write the state of handlers, behind their first line.
--
-- The state of a handler is a hash. How many bytes of keys and values each one has stands in one hash per tenant, by
-- handler, and is written in the same step: so what a tenant has is known without looking at its states.

-- Why the key cannot be used as a hash by these commands; false if it can.
local function hash_obstacle(hash, commands)
  local kind = redis.call('TYPE', hash).ok
  if kind ~= 'none' and kind ~= 'hash' then return 'WRONGTYPE ' .. hash .. ' holds a ' .. kind .. ', not a hash' end
  for _, command in ipairs(commands) do
    if not redis.acl_check_cmd(command[1], hash, unpack(command, 2)) then
      return 'NOPERM no permission for ' .. command[1] .. ' on ' .. hash
    end
  end
  return false
end

local STATE_COMMANDS = { { 'HGET', 'f' }, { 'HSTRLEN', 'f' }, { 'HEXISTS', 'f' }, { 'HLEN' }, { 'HSET', 'f', 'v' }, { 'HDEL', 'f' } }
local SIZES_COMMANDS = { { 'HGET', 'f' }, { 'HVALS' }, { 'HSET', 'f', 'v' }, { 'HDEL', 'f' } }

-- Why the state cannot be read and written; false if it can. Looks once per state and call.
local states = {}
local function state_obstacle(hash, sizes, handler)
  if states[hash] == nil then
    local verdict = hash_obstacle(hash, STATE_COMMANDS) or hash_obstacle(sizes, SIZES_COMMANDS)
    -- Somebody may have deleted the hash: what is not there has no bytes.
    if not verdict and redis.call('HLEN', hash) == 0 then redis.call('HDEL', sizes, handler) end
    states[hash] = verdict
  end
  return states[hash]
end

-- The bytes of a key and its value; 0 if there is no such key.
local function bytes_of(hash, key)
  local length = redis.call('HSTRLEN', hash, key)
  if length == 0 and redis.call('HEXISTS', hash, key) == 0 then return 0 end
  return #key + length
end

-- Whether the states of the tenant would have more bytes than its quota ('' for none) with so many more. What makes them
-- smaller is always allowed.
local function is_over_quota(sizes, quota, more)
  if quota == '' or more <= 0 then return false end
  local total = more
  for _, bytes in ipairs(redis.call('HVALS', sizes)) do total = total + (tonumber(bytes) or 0) end
  return total > tonumber(quota)
end

-- Sets a value, or deletes it.
local function write_value(hash, key, is_set, value)
  if is_set then redis.call('HSET', hash, key, value) else redis.call('HDEL', hash, key) end
end

-- The state of the handler has so many bytes more. Cannot fail, whatever somebody has written there.
local function grow(sizes, handler, more)
  if more == 0 then return end
  local bytes = (tonumber(redis.call('HGET', sizes, handler)) or 0) + more
  redis.call('HSET', sizes, handler, string.format('%.0f', math.max(bytes, 0)))
end
