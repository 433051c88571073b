#!lua
-- Moves delayed events into their streams, each once. Without the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: the sorted set, then the streams. ARGV per event: member, index of its stream in KEYS, number of arguments,
-- field, value, ...
-- Returns per event: 1 moved, 0 somebody else has moved it, or a text: refused, and why.

local results, at = {}, 1
while at <= #ARGV do
  local member, key, length = ARGV[at], KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
  local result = publish_obstacle(key, '', length)
  if not result then
    result = 0
    if redis.call('ZSCORE', KEYS[1], member) then
      local id, why = append(key, unpack(ARGV, at + 3, at + 2 + length))
      result = id and redis.call('ZREM', KEYS[1], member) or why
    end
  end
  results[#results + 1] = result
  at = at + 3 + length
end
return results
