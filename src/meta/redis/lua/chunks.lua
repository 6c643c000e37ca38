-- ARGV: what the keys of a file's chunks begin with, the first index, the last. Returns the indices that exist.
local found = {}
for index = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  if redis.call('EXISTS', ARGV[1] .. string.format('%d', index)) == 1 then found[#found + 1] = index end
end
return found
