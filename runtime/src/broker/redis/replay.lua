#!lua
-- Appends past entries of a stream to the inbox of a handler.
--
-- KEYS: stream, inbox. ARGV: first and last entry, the most entries, the name of the stream, the id of the run.
-- Returns: number of entries appended, number of those left out, the newest entry that was looked at or ''.

local refused = obstacle(KEYS[2])
if refused then return redis.error_reply(refused) end
local appended, skipped, last, bytes = 0, 0, '', 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
  local fields = entry[2]
  last = entry[1]
  for _, value in ipairs(fields) do bytes = bytes + #value end
  if #fields > MAX_VALUES then
    skipped = skipped + 1
  else
    local id, why = append(KEYS[2], 'dl_stream', ARGV[4], 'dl_entry_id', last, 'wasmill_replay', ARGV[5],
      'dl_original_fields', tostring(#fields / 2), unpack(fields))
    if not id then return redis.error_reply(why) end
    appended = appended + 1
  end
  -- A page of large entries would hold up the server.
  if bytes >= 1048576 then break end
end
return { appended, skipped, last }
