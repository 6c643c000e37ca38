-- KEYS: the directory's hash. ARGV: the name, the key prefix. Returns the entry and the attributes it leads to.
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry then return false end
return { entry, attr(ARGV[2], entry) }
