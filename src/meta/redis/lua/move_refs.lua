-- Moves slice references that were keys of their own into the hash. One that says "not used" or "used once" is dropped:
-- its blocks are found by their objects.
--
-- KEYS: the hash of slice references. ARGV: the key prefix, then the names. Returns how many there were.
local moved = 0
for n = 2, #ARGV do
  local old = redis.pcall('GET', ARGV[1] .. ARGV[n])
  if type(old) == 'string' and string.match(old, '^%-?%d+$') then
    if tonumber(old) > 0 then redis.call('HINCRBY', KEYS[1], ARGV[n], old) end
    redis.call('DEL', ARGV[1] .. ARGV[n])
    moved = moved + 1
  end
end
return moved
