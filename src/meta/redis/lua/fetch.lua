-- ARGV: how, key, field of each record. Returns the records in this order.
local found = {}
for n = 1, #ARGV, 3 do
  found[#found + 1] = read(ARGV[n], ARGV[n + 1], ARGV[n + 2])
end
return found
