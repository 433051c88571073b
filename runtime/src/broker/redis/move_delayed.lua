#!lua
-- Moves delayed events into their streams, each once. Without the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: the sorted set, then the streams. ARGV per event: member, index of its stream in KEYS, number of arguments,
-- field, value, ...
-- Returns per event: 1 moved, 0 somebody else has moved it, or a text: refused, and why.

-- What has been appended has to be removed: else it would be appended again and again.
if not redis.acl_check_cmd('ZREM', KEYS[1], 'm') then
  return redis.error_reply('NOPERM no permission to remove from ' .. KEYS[1])
end
local results, at = {}, 1
while at <= #ARGV do
  local member, key, length = ARGV[at], KEYS[tonumber(ARGV[at + 1])], tonumber(ARGV[at + 2])
  local result = publish_obstacle(key, '', length)
  if not result then
    result = 0
    -- Whether it still waits; workers need not have ZSCORE.
    if redis.call('ZADD', KEYS[1], 'XX', 'INCR', 0, member) then
      local id, why = append(key, unpack(ARGV, at + 3, at + 2 + length))
      result = id and redis.call('ZREM', KEYS[1], member) or why
    end
  end
  results[#results + 1] = result
  at = at + 3 + length
end
return results
