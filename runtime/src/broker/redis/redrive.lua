#!lua
-- Moves a dead letter back to the inbox of its handler, once.
--
-- KEYS: dead-letter stream, inbox. ARGV: entry id. Returns 1 if moved, 0 if the dead letter is no longer there.

local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if not found[1] then return 0 end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' and kind ~= 'stream' then
  return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' holds a ' .. kind .. ', not a stream')
end
if not redis.acl_check_cmd('XADD', KEYS[2], '*', 'f', 'v') then
  return redis.error_reply('NOPERM no permission to append to ' .. KEYS[2])
end
if kind == 'stream' then
  local info = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' and string.sub(info[i + 1], 1, 19) == '1844674407370955161' then
      return redis.error_reply('ERR ' .. KEYS[2] .. ' has reached the greatest entry id')
    end
  end
end
local letter, moved, original = found[1][2], {}, false
for i = 1, #letter, 2 do
  local name = letter[i]
  if original or name == 'dl_stream' or name == 'dl_entry_id' or name == 'dl_original_fields' then
    moved[#moved + 1] = name
    moved[#moved + 1] = letter[i + 1]
  end
  original = original or name == 'dl_original_fields'
end
if not original then return redis.error_reply('ERR the entry is not a dead letter') end
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], '*', unpack(moved))
return 1
