-- Releases the locks of a session and removes its registration. Doing it twice does no harm.
--
-- KEYS: the set of its lock keys, the hash of session JSONs, the sorted set of sessions. ARGV: the session's number, what
-- the keys of locks begin with. A key that is not of that kind, or no hash, is nobody's lock.
local mine = ARGV[1] .. '_'
for _, lock in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if string.sub(lock, 1, #ARGV[2]) == ARGV[2] and redis.call('TYPE', lock).ok == 'hash' then
    for _, owner in ipairs(redis.call('HKEYS', lock)) do
      if string.sub(owner, 1, #mine) == mine then redis.call('HDEL', lock, owner) end
    end
  end
  redis.call('SREM', KEYS[1], lock)
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
