-- Whether an operation took effect whose reply was lost. If not, it never will: the slot is moved past it.
--
-- KEYS: the hash of tokens. ARGV: slot, operation.
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return 1 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', tonumber(ARGV[2]) + 1))
redis.call('EXPIRE', KEYS[1], 3600)
return 0
