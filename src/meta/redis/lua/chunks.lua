-- ARGV: what the keys of a file's chunks begin with, the first index, the last. Returns the indices that exist.
local found, group = {}, 64
local first, last = tonumber(ARGV[2]), tonumber(ARGV[3])
local function key(index) return ARGV[1] .. string.format('%d', index) end
for start = first, last, group do
  local stop = math.min(start + group - 1, last)
  local keys = {}
  for index = start, stop do keys[#keys + 1] = key(index) end
  -- Most groups have none, which one command tells.
  if redis.call('EXISTS', unpack(keys)) > 0 then
    for index = start, stop do
      if redis.call('EXISTS', key(index)) == 1 then found[#found + 1] = index end
    end
  end
end
return found
