#!lua
-- Appends events with the same fields to one stream, all or none: what they have in common travels once. Without the
-- flag allow-oom: a full server refuses the whole call.
--
-- KEYS: the stream. ARGV: number of events, number of fields; field and value of each field of the first event; number
-- of fields whose values differ, and their places among the fields, from 1; then per further event those values.
-- Returns the ids of the entries in one text, with spaces between them.

local call, unpack, ARGV, key = redis.call, unpack, ARGV, KEYS[1]
local kind = call('TYPE', key).ok
if kind ~= 'none' and kind ~= 'stream' then
  return redis.error_reply('WRONGTYPE ' .. key .. ' holds a ' .. kind .. ', not a stream')
end
if not redis.acl_check_cmd('XADD', key, '*', 'f', 'v') then
  return redis.error_reply('NOPERM no permission to append to ' .. key)
end
if kind == 'stream' then
  local info = call('XINFO', 'STREAM', key)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' and string.sub(info[i + 1], 1, 19) == '1844674407370955161' then
      return redis.error_reply('ERR ' .. key .. ' has reached the greatest entry id')
    end
  end
end
local count, width = tonumber(ARGV[1]), tonumber(ARGV[2])
local entry = {'XADD', key, '*', unpack(ARGV, 3, 2 + 2 * width)}
local at = 3 + 2 * width
local differing, slots = tonumber(ARGV[at]), {}
for i = 1, differing do
  slots[i] = 3 + 2 * tonumber(ARGV[at + i])
end
at = at + differing
local ids = {call(unpack(entry))}
for event = 2, count do
  for i = 1, differing do
    entry[slots[i]] = ARGV[at + i]
  end
  at = at + differing
  ids[event] = call(unpack(entry))
end
return table.concat(ids, ' ')
