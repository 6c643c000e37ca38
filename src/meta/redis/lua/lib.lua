-- What the other scripts share; it is put in front of them.

-- The eight big-endian bytes of s from the second on as a decimal string: the inode of an entry.
local function inode(s)
  local a, b, c, d, e, f, g, h = string.byte(s, 2, 9)
  if a == 0 and b < 32 then
    return string.format('%.0f', (((((b * 256 + c) * 256 + d) * 256 + e) * 256 + f) * 256 + g) * 256 + h)
  end
  -- Lua's numbers are exact up to 2^53 only.
  local low, mid, high = 0, 0, 0
  for _, byte in ipairs({ a, b, c, d, e, f, g, h }) do
    low = low * 256 + byte
    mid = mid * 256 + math.floor(low / 10000000)
    low = low % 10000000
    high = high * 256 + math.floor(mid / 10000000)
    mid = mid % 10000000
  end
  return string.format('%d%07d%07d', high, mid, low)
end

-- The attributes of the inode that an entry leads to.
local function attr(prefix, entry)
  if #entry ~= 9 then return false end
  return redis.call('GET', prefix .. 'i' .. inode(entry))
end

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

-- Which server this is: a cursor of SCAN means something else on another one.
local function server()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
end

-- A step of SCAN or HSCAN, from the beginning if the cursor is another server's. Returns the next cursor and the items.
local function scan(from, step)
  local cursor, on = string.match(from, '^(%d+)@?(%w*)$')
  if cursor ~= '0' and on ~= server() then cursor = '0' end
  local reply = step(cursor)
  return reply[1] == '0' and '0' or reply[1] .. '@' .. server(), reply[2]
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
