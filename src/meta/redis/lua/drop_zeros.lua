-- KEYS: the hash of slice references. ARGV: fields that are dropped if they still are "0".
for _, field in ipairs(ARGV) do
  if redis.call('HGET', KEYS[1], field) == '0' then redis.call('HDEL', KEYS[1], field) end
end
return 1
