-- What the other scripts share; it is put in front of them.

-- A record: a string, or false when it is absent. One function, since the server makes all of them anew at each call.
local function get(how, key, field)
  if how == 'get' then return redis.call('GET', key) end
  if how == 'hget' then return redis.call('HGET', key, field) end
  if how == 'exists' then return redis.call('EXISTS', key) == 1 and '1' end
  if how == 'member' then return redis.call('SISMEMBER', key, field) == 1 and '1' end
  if how == 'score' then return redis.call('ZSCORE', key, field) end
  if how == 'list' then
    local items = redis.call('LRANGE', key, 0, -1)
    return #items > 0 and table.concat(items)
  end
  if how == 'pairs' then
    local items = redis.call('HGETALL', key)
    return #items > 0 and table.concat(items, ' ')
  end
  if how == 'fields' then
    local items = redis.call('HGETALL', key)
    for n, item in ipairs(items) do items[n] = #item .. ':' .. item end
    return #items > 0 and table.concat(items)
  end
  if how == 'stat' then
    local space = redis.call('HGET', key .. 'dirUsedSpace', field)
    if not space then return false end
    local length = redis.call('HGET', key .. 'dirDataLength', field) or '0'
    return length .. ' ' .. space .. ' ' .. (redis.call('HGET', key .. 'dirUsedInodes', field) or '0')
  end
  local limits = redis.call('HGET', key, field)
  if not limits then return false end
  local space = redis.call('HGET', key .. 'UsedSpace', field) or '0'
  return limits .. space .. ' ' .. (redis.call('HGET', key .. 'UsedInodes', field) or '0')
end

-- What a caught error says: a table since Redis 7, before that a string.
local function message(caught)
  return type(caught) == 'table' and caught.err or tostring(caught)
end

-- Reads a record: the value, or false when it is absent; when it cannot be read, nil and what is wrong.
local function read(how, key, field)
  local ok, found = pcall(get, how, key, field)
  if ok then return found end
  return nil, message(found)
end

-- The reply about a record that cannot be read.
local function corrupt(key, why)
  return redis.error_reply('CORRUPT ' .. key .. ' ' .. string.gsub(why, '%c', '?'))
end
