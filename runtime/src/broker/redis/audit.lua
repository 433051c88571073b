#!lua flags=allow-oom
-- Appends a line to the audit log. Allowed when memory is full: what makes room is a change like any other. The log does
-- not grow.
--
-- KEYS: stream. ARGV: about how many entries are kept, then fields and values. Returns the id of the entry.

return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 2))
