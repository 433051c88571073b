-- Put before the scripts that append to streams, behind their first line.

-- Why nothing can be appended to the stream `key`; false if it can. Looks once per key and call.
local verdicts = {}
local function obstacle(key)
  local verdict = verdicts[key]
  if verdict ~= nil then return verdict end
  verdict = false
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= 'stream' then
    verdict = 'WRONGTYPE ' .. key .. ' holds a ' .. kind .. ', not a stream'
  elseif not redis.acl_check_cmd('XADD', key, '*', 'f', 'v') then
    verdict = 'NOPERM no permission to append to ' .. key
  elseif kind == 'stream' then
    local info = redis.call('XINFO', 'STREAM', key)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' and string.sub(info[i + 1], 1, 19) == '1844674407370955161' then
        verdict = 'EXHAUSTED ' .. key .. ' has reached the greatest entry id'
      end
    end
  end
  verdicts[key] = verdict
  return verdict
end
