#!lua
-- Moves a dead letter back to the inbox of its handler, once.
--
-- KEYS: dead-letter stream, inbox. ARGV: entry id, the version that is to run it or nothing. Returns 1 if moved, 0 if the
-- dead letter is no longer there, -1 if the entry is no dead letter, -2 if the dead letter does not hold the original.

local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if not found[1] then return 0 end
local letter, moved, original, head = found[1][2], {}, false, 6
for i = 1, #letter, 2 do
  local name = letter[i]
  if name == 'dl_original_fields' and not original and ARGV[2] ~= '' then
    moved[#moved + 1] = 'wasmill_version'
    moved[#moved + 1] = ARGV[2]
    head = 8
  end
  if original or name == 'dl_stream' or name == 'dl_entry_id' or name == 'dl_original_fields' then
    moved[#moved + 1] = name
    moved[#moved + 1] = letter[i + 1]
  end
  if name == 'dl_original_fields' and not original then
    if letter[i + 1] == '0' then return -2 end
    original = true
  end
end
if not original then return -1 end
local refused = obstacle(KEYS[2])
if refused then return redis.error_reply(refused) end
-- What wasmill itself wrote before the original is not counted.
if #moved - head > MAX_VALUES then return redis.error_reply('ERR the dead letter has more fields than a script can write') end
-- What has been appended has to be removed: else it would be there twice.
if not redis.acl_check_cmd('XDEL', KEYS[1], ARGV[1]) then
  return redis.error_reply('NOPERM no permission to delete from ' .. KEYS[1])
end
local id, why = append(KEYS[2], unpack(moved))
if not id then return redis.error_reply(why) end
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
