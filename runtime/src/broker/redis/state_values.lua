#!lua flags=no-writes,allow-oom
-- KEYS[1]: the hash. ARGV: the most bytes, then keys.
-- Returns their values in order, or false if they have more bytes together: then none is sent.

local most, bytes, values = tonumber(ARGV[1]), 0, {}
for i = 2, #ARGV do
  bytes = bytes + redis.call('HSTRLEN', KEYS[1], ARGV[i])
  if bytes > most then return false end
  values[i - 1] = redis.call('HGET', KEYS[1], ARGV[i])
end
return values
