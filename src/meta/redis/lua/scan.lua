-- KEYS: any key of the volume, so that the call gets to the node that has all of them. ARGV: cursor, count, pattern, how.
-- Returns the next cursor and a flat list of key and '=' .. record or, for one that cannot be read, '!' .. message.
local next, keys = scan(ARGV[1], function(cursor)
  return redis.call('SCAN', cursor, 'MATCH', ARGV[3], 'COUNT', ARGV[2])
end)
local items = {}
for _, key in ipairs(keys) do
  local found, wrong = read(ARGV[4], key)
  items[#items + 1] = key
  items[#items + 1] = wrong and '!' .. wrong or found and '=' .. found
end
return { next, items }
