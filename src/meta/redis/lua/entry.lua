-- What an entry leads to.

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
