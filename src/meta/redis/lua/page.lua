-- KEYS: the directory's hash. ARGV: cursor, count, '1' to add attributes, the key prefix.
-- Returns the next cursor and a flat list of name, entry, attributes.
local reply = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local items = {}
for n = 1, #reply[2], 2 do
  local entry = reply[2][n + 1]
  items[#items + 1] = reply[2][n]
  items[#items + 1] = entry
  items[#items + 1] = ARGV[3] == '1' and attr(ARGV[4], entry)
end
return { reply[1], items }
