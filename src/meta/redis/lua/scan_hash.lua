-- KEYS: a hash. ARGV: cursor, count. Returns the next cursor and a flat list of fields and values.
local next, items = scan(ARGV[1], function(cursor)
  return redis.call('HSCAN', KEYS[1], cursor, 'COUNT', ARGV[2])
end)
return { next, items }
