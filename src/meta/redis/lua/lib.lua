-- What the other scripts share; it is put in front of them.

-- The unsigned big-endian bytes first .. last of s as a decimal string, exact beyond 2^53 where Lua's numbers are not.
local function decimal(s, first, last)
  local low, mid, high = 0, 0, 0
  for n = first, last do
    low = low * 256 + string.byte(s, n)
    mid = mid * 256 + math.floor(low / 10000000)
    low = low % 10000000
    high = high * 256 + math.floor(mid / 10000000)
    mid = mid % 10000000
  end
  if high > 0 then return string.format('%d%07d%07d', high, mid, low) end
  if mid > 0 then return string.format('%d%07d', mid, low) end
  return string.format('%d', low)
end

-- The attributes of the inode that an entry leads to.
local function attr(prefix, entry)
  if #entry ~= 9 then return false end
  return redis.call('GET', prefix .. 'i' .. decimal(entry, 2, 9))
end

-- How each kind of record is read: a string, or false when it is absent.
local readers = {
  get = function(key) return redis.call('GET', key) end,
  hget = function(key, field) return redis.call('HGET', key, field) end,
  exists = function(key) return redis.call('EXISTS', key) == 1 and '1' end,
  member = function(key, member) return redis.call('SISMEMBER', key, member) == 1 and '1' end,
  score = function(key, member) return redis.call('ZSCORE', key, member) end,
  list = function(key)
    local items = redis.call('LRANGE', key, 0, -1)
    return #items > 0 and table.concat(items)
  end,
  pairs = function(key)
    local items = redis.call('HGETALL', key)
    return #items > 0 and table.concat(items, ' ')
  end,
  stat = function(prefix, ino)
    local space = redis.call('HGET', prefix .. 'dirUsedSpace', ino)
    if not space then return false end
    local length = redis.call('HGET', prefix .. 'dirDataLength', ino) or '0'
    return length .. ' ' .. space .. ' ' .. (redis.call('HGET', prefix .. 'dirUsedInodes', ino) or '0')
  end,
  quota = function(prefix, ino)
    local limits = redis.call('HGET', prefix .. 'dirQuota', ino)
    if not limits then return false end
    local space = redis.call('HGET', prefix .. 'dirQuotaUsedSpace', ino) or '0'
    return limits .. space .. ' ' .. (redis.call('HGET', prefix .. 'dirQuotaUsedInodes', ino) or '0')
  end,
}

local function read(how, key, field)
  return readers[how](key, field)
end
