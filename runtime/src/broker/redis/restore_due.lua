#!lua
-- Finds parked entries that are in no due set, so that nobody would ever take them back; on request makes them due now.
--
-- KEYS: stream, due set. ARGV: group, parked consumer, first entry, limit, 1 to make them due.
-- Returns: how many there are, and the last entry that was looked at or '' if there are no more.

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local parked = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], '+', ARGV[4], ARGV[2])
local found = 0
for _, entry in ipairs(parked) do
  if not redis.call('ZSCORE', KEYS[2], entry[1]) then
    found = found + 1
    if ARGV[5] == '1' then redis.call('ZADD', KEYS[2], now, entry[1]) end
  end
end
local last = #parked == tonumber(ARGV[4]) and parked[#parked][1] or ''
return { found, last }
