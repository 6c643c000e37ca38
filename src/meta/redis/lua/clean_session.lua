-- Releases the locks of a session and removes its registration. Doing it twice does no harm.
--
-- KEYS: the set of its lock keys, the hash of session JSONs, the sorted set of sessions. ARGV: the session's number.
local mine = ARGV[1] .. '_'
for _, lock in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  for _, owner in ipairs(redis.call('HKEYS', lock)) do
    if string.sub(owner, 1, #mine) == mine then redis.call('HDEL', lock, owner) end
  end
  redis.call('SREM', KEYS[1], lock)
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
