#!lua
-- Appends events, all or none. Without the flag allow-oom: a full server refuses the whole call.
--
-- KEYS: the streams. ARGV per event: index of its stream in KEYS, number of arguments, field, value, ...
-- Returns the ids of the entries.

for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= 'stream' then
    return redis.error_reply('WRONGTYPE ' .. key .. ' holds a ' .. kind .. ', not a stream')
  end
  if not redis.acl_check_cmd('XADD', key, '*', 'f', 'v') then
    return redis.error_reply('NOPERM no permission to append to ' .. key)
  end
  if kind == 'stream' then
    local info = redis.call('XINFO', 'STREAM', key)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' and string.sub(info[i + 1], 1, 19) == '1844674407370955161' then
        return redis.error_reply('ERR ' .. key .. ' has reached the greatest entry id')
      end
    end
  end
end
local ids, at = {}, 1
while at <= #ARGV do
  local key, length = KEYS[tonumber(ARGV[at])], tonumber(ARGV[at + 1])
  ids[#ids + 1] = redis.call('XADD', key, '*', unpack(ARGV, at + 2, at + 1 + length))
  at = at + 2 + length
end
return ids
