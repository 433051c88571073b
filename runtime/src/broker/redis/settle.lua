#!lua
-- Applies decisions that write: acks with follow-ups, and dead letters. Each is applied whole or not at all.
-- Without the flag allow-oom, so that a full server refuses the whole call before anything is done.
--
-- KEYS: every stream that is touched.
-- ARGV: consumer, then per settlement: op, index of its stream in KEYS, group, entry id, and
--   op 'A': index of the mark in KEYS, or 0 for none; if there is one, how long it stays in milliseconds, and 1 if it
--     does not matter whether it is there already; then number of follow-ups, then per follow-up: index in KEYS of its stream or of the set of delayed events,
--     when, number of arguments, field, value, ... or the member; then index of the state in KEYS, or 0 for none; if
--     there is one, index of the sizes of the tenant's states, handler, the most bytes that they may have or '' for no bound,
--     number of things seen, then per thing: key, and '-' if it was absent, '+' if it was there, or the SHA-1 of its value;
--     then number of keys listed, or -1 if they were not, and the keys; then number of writes, then per write: key, 1 to set
--     or 0 to delete, value
--   op 'D': index of the dead-letter stream in KEYS, number of arguments, place of the time in them, 1 if the entry
--     stands in an inbox, field, value, ...
-- Returns per settlement: 1 applied, 0 superseded, 2 acknowledged without effects since the mark was there, 3 pending
-- under the consumer but what was seen of the state has changed, 4 the same but the writes are more than the quota, or a
-- text: refused, and why.
--
-- There is no rollback. So everything that could fail is checked, or done, for a settlement before its XACK, and nothing
-- after it may be able to fail.

local consumer = ARGV[1]
local at = 2
local time = redis.call('TIME')
local now = string.format('%d%03d', time[1], math.floor(time[2] / 1000))

-- What is in the way of acknowledging entries of KEYS[index]: false if nothing, 0 if it is no stream, so that nothing
-- can be pending there, or a text: refused, and why.
local sources = {}
local function source_obstacle(index, group)
  if sources[index] == nil then
    local key, verdict = KEYS[index], false
    if redis.call('TYPE', key).ok ~= 'stream' then
      verdict = 0
    elseif not redis.acl_check_cmd('XACK', key, group, '0-1') then
      verdict = 'NOPERM no permission to acknowledge in ' .. key
    end
    sources[index] = verdict
  end
  return sources[index]
end

-- Why the mark cannot be left: the same for all marks; false if it can.
local marks
local function mark_obstacle(mark)
  if marks == nil then
    marks = not redis.acl_check_cmd('SET', mark, '1', 'PX', '1') and 'NOPERM no permission to set ' .. mark
  end
  return marks
end

-- Whether a key of the state is not what was seen of it.
local function has_changed(hash, key, seen)
  if seen == '+' then return redis.call('HEXISTS', hash, key) == 0 end
  local value = redis.call('HGET', hash, key)
  if not value then return seen ~= '-' end
  return seen == '-' or redis.sha1hex(value) ~= seen
end

-- Takes the arguments about the state: nil if there are none. Says why it is refused, whether what was seen has changed,
-- the places of its writes, by how many bytes they make it larger, and whether that is more than the quota.
local function read_state()
  local hash = KEYS[tonumber(ARGV[at])]
  at = at + 1
  if not hash then return nil end
  local sizes, handler, quota = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  local refused, is_stale, writes, more = state_obstacle(hash, sizes, handler), false, {}, 0
  local function look(key, seen) is_stale = is_stale or (not refused and has_changed(hash, key, seen)) end
  local count = tonumber(ARGV[at])
  for i = at + 1, at + 2 * count, 2 do look(ARGV[i], ARGV[i + 1]) end
  at = at + 1 + 2 * count
  local listed = tonumber(ARGV[at])
  if listed >= 0 and not refused then is_stale = is_stale or redis.call('HLEN', hash) ~= listed end
  for i = at + 1, at + listed do look(ARGV[i], '+') end
  at = at + 1 + math.max(listed, 0)
  count = tonumber(ARGV[at])
  for i = 1, count do
    local place = at + 1 + 3 * (i - 1)
    writes[i] = place
    if not refused then
      local bytes = ARGV[place + 1] == '1' and #ARGV[place] + #ARGV[place + 2] or 0
      more = more + bytes - bytes_of(hash, ARGV[place])
    end
  end
  at = at + 1 + 3 * count
  local is_over = not refused and is_over_quota(sizes, quota, more)
  return { hash = hash, sizes = sizes, handler = handler, refused = refused, is_stale = is_stale, writes = writes,
    more = more, is_over = is_over }
end

local function write_state(state)
  for _, place in ipairs(state.writes) do
    write_value(state.hash, ARGV[place], ARGV[place + 1] == '1', ARGV[place + 2])
  end
  grow(state.sizes, state.handler, state.more)
end

-- Under whom the entry is pending: its consumer, false if it is not, or nil and why that cannot be told.
local function pending_under(source, group, entry)
  local pending = redis.pcall('XPENDING', KEYS[source], group, entry, entry, 1)
  if pending.err then
    -- A group that is gone has nothing pending.
    if string.sub(pending.err, 1, 7) == 'NOGROUP' then return false end
    return nil, pending.err .. ' (XPENDING ' .. KEYS[source] .. ')'
  end
  return pending[1] and pending[1][2] or false
end

local function ack(source, group, entry)
  return redis.call('XACK', KEYS[source], group, entry) == 1
end

local function settle_ack(source, group, entry)
  local mark, ttl, overrides = KEYS[tonumber(ARGV[at])], nil, false
  at = at + 1
  if mark then
    ttl, overrides = ARGV[at], ARGV[at + 1] == '1'
    at = at + 2
  end
  local count = tonumber(ARGV[at])
  at = at + 1
  local refused = source_obstacle(source, group)
  local is_duplicate = mark and not overrides and not refused and redis.call('EXISTS', mark) == 1
  refused = refused or (mark and mark_obstacle(mark))
  local writes
  writes, refused, at = read_writes(at, count, refused)
  local state = read_state()
  refused = refused or (state and state.refused)
  if is_duplicate then return ack(source, group, entry) and 2 or 0 end
  if refused then return refused end
  if state and (state.is_stale or state.is_over) then
    -- Only who has the entry runs it again.
    local owner, why = pending_under(source, group, entry)
    return why or (owner ~= consumer and 0) or (state.is_stale and 3 or 4)
  end
  if are_proven(writes) then
    if not ack(source, group, entry) then return 0 end
    publish_all(writes)
  else
    -- What can still fail comes first.
    local owner, why = pending_under(source, group, entry)
    if why then return why end
    if not owner then return 0 end
    local ids
    ids, why = publish_all(writes)
    if not ids then return why end
    ack(source, group, entry)
  end
  if mark then redis.call('SET', mark, 1, 'PX', ttl) end
  if state then write_state(state) end
  return 1
end

-- The fields of an inbox entry behind what wasmill wrote before them; all of them if it wrote nothing.
local function without_head(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'dl_original_fields' then
      local rest = {}
      for at = i + 2, #fields do rest[#rest + 1] = fields[at] end
      return rest
    end
  end
  return fields
end

local function settle_dead(source, group, entry)
  local target, length, time_at = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local is_inbox, first = ARGV[at + 3] == '1', at + 4
  at = first + length
  local refused = source_obstacle(source, group) or obstacle(KEYS[target])
  if refused then return refused end
  local owner, why = pending_under(source, group, entry)
  if why then return why end
  if owner ~= consumer then return 0 end
  local original = redis.pcall('XRANGE', KEYS[source], entry, entry)
  if original.err then return original.err .. ' (XRANGE ' .. KEYS[source] .. ')' end
  original = original[1] and original[1][2] or {}
  if is_inbox then original = without_head(original) end
  local fields = { unpack(ARGV, first, first + length - 1) }
  fields[time_at] = now
  fields[#fields + 1] = 'dl_original_fields'
  fields[#fields + 1] = tostring(#original / 2)
  -- An entry with more fields cannot be copied here: its name and number stay.
  if #original > MAX_VALUES then
    fields[#fields] = '0'
    original = {}
  end
  for _, item in ipairs(original) do fields[#fields + 1] = item end
  local id
  id, why = append(KEYS[target], unpack(fields))
  if not id then return why end
  ack(source, group, entry)
  return 1
end

local results = {}
while at <= #ARGV do
  local op, source, group, entry = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  at = at + 4
  if op == 'A' then
    results[#results + 1] = settle_ack(source, group, entry)
  else
    results[#results + 1] = settle_dead(source, group, entry)
  end
end
return results
