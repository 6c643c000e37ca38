-- KEYS: the directory's hash. ARGV: cursor, count, '1' to add attributes, the key prefix.
-- Returns the next cursor and a flat list of name, entry, attributes; '!' .. message instead of attributes that are none.
local next, entries = scan(ARGV[1], function(cursor)
  return redis.call('HSCAN', KEYS[1], cursor, 'COUNT', ARGV[2])
end)
local with_attrs, attr_keys = ARGV[3] == '1', ARGV[4] .. 'i'
local items, count = {}, 0
local keys, places, wanted = {}, {}, 0
for n = 1, #entries, 2 do
  local entry = entries[n + 1]
  items[count + 1], items[count + 2], items[count + 3] = entries[n], entry, false
  count = count + 3
  if with_attrs and #entry == 9 then
    wanted = wanted + 1
    keys[wanted], places[wanted] = attr_keys .. inode(entry), count
  end
end
-- MGET finds nothing at a key of another type, GET says what is wrong.
local function get_or_error(key)
  local ok, found = pcall(redis.call, 'GET', key)
  if ok then return found and '=' .. found end
  return '!' .. message(found)
end
-- As many as fit onto Lua's stack.
for first = 1, wanted, 1000 do
  local last = math.min(first + 999, wanted)
  local found = redis.call('MGET', unpack(keys, first, last))
  for n = first, last do
    local attr = found[n - first + 1]
    items[places[n]] = attr and '=' .. attr or get_or_error(keys[n])
  end
end
return { next, items }
