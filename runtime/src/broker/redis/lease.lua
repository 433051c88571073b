#!lua flags=allow-oom
-- Takes the lease of an intake if nobody has it, keeps it, or (with a time of 0) gives it back. Allowed when memory is full:
-- whoever has the lease holds messages back until there is room.
--
-- KEYS: lease, position. ARGV: owner, for how long in milliseconds.
-- Returns 1 if the owner has the lease now, else 0, and the position ('' if there is none).

local holder = redis.call('GET', KEYS[1])
local held = 0
if ARGV[2] == '0' then
  if holder == ARGV[1] then redis.call('DEL', KEYS[1]) end
elseif not holder or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  held = 1
end
return { held, redis.call('GET', KEYS[2]) or '' }
