#!lua flags=no-writes,allow-oom
-- Looks at delayed events whose time has come, earliest first.
--
-- KEYS: the sorted set. ARGV: the most events, the most bytes (one event may have more).
-- Returns: the server's time in milliseconds, members, milliseconds until the next one is due or -1.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGE', KEYS[1], '-inf', string.format('%.0f', now), 'BYSCORE', 'LIMIT', 0, ARGV[1])
local members, bytes = {}, 0
for _, member in ipairs(due) do
  bytes = bytes + #member
  if #members > 0 and bytes > tonumber(ARGV[2]) then break end
  members[#members + 1] = member
end
local next_due = -1
local following = redis.call('ZRANGE', KEYS[1], #members, #members, 'WITHSCORES')
if following[2] then next_due = math.max(0, tonumber(following[2]) - now) end
return { string.format('%.0f', now), members, next_due }
