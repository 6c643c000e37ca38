-- ARGV: how, key, field of each record. Returns the records in this order.
local found = {}
for n = 1, #ARGV, 3 do
  local value, wrong = read(ARGV[n], ARGV[n + 1], ARGV[n + 2])
  if wrong then return corrupt(ARGV[n + 1], wrong) end
  found[#found + 1] = value
end
return found
