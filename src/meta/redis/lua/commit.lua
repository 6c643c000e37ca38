-- Compares what a transaction has read and applies what it writes, all or nothing.
--
-- KEYS: the hash of tokens. ARGV: slot, operation, '1' to have the tokens expire an hour from now; the number of records to
-- compare, then for each how, key, field and '=' .. value or '-' for an absent one; then the writes: a command, the number
-- of its arguments, the arguments.
-- Returns 1 when committed, 0 when the slot has seen a later operation, or {n, value, …} of the records that differ.
local token = redis.call('HGET', KEYS[1], ARGV[1])
if token and tonumber(token) >= tonumber(ARGV[2]) then return 0 end

-- Keys that are known to hold what their name says.
local sound = {}

local at, changed = 5, {}
for n = 1, tonumber(ARGV[4]) do
  local how, key = ARGV[at], ARGV[at + 1]
  local now, wrong = read(how, key, ARGV[at + 2])
  if wrong then return corrupt(key, wrong) end
  sound[key] = how ~= 'exists' and how ~= 'stat'
  if (now and '=' .. now or '-') ~= ARGV[at + 3] then
    changed[#changed + 1] = n
    changed[#changed + 1] = now
  end
  at = at + 4
end
if #changed > 0 then return changed end

-- A script that fails half-way is not undone. So what a write would stumble over is looked for before the first one,
-- except for counters and new statistics, which can be taken back: they come first, whatever their order.
local function number(value)
  if not value or type(value) == 'table' or (#value < 19 and string.match(value, '^%-?%d+$')) then return value end
  return { err = 'not a number: ' .. string.sub(value, 1, 32) }
end
local sizes = { H = 'HLEN', L = 'LLEN', R = 'LLEN', S = 'SCARD', Z = 'ZCARD' }
local function wrong_with(command, key, field)
  if command == 'HINCRBY' or command == 'link' then return number(redis.pcall('HGET', key, field)) end
  if command == 'addquota' then
    local space = number(redis.pcall('HGET', key .. 'UsedSpace', field))
    if type(space) == 'table' then return space end
    local inodes = number(redis.pcall('HGET', key .. 'UsedInodes', field))
    return type(inodes) == 'table' and inodes or redis.pcall('HGET', key, field)
  end
  if sound[key] then return end
  sound[key] = true
  local size = sizes[string.sub(command, 1, 1)]
  return size and redis.pcall(size, key)
end
local first, counters, stats = at, {}, {}
while at <= #ARGV do
  local command = ARGV[at]
  if command == 'INCRBY' then
    counters[#counters + 1] = at
  elseif command == 'newstat' then
    stats[#stats + 1] = at
  elseif command ~= 'SET' and command ~= 'DEL' and command ~= 'addstat' then
    local wrong = wrong_with(command, ARGV[at + 2], ARGV[at + 3])
    if type(wrong) == 'table' then return corrupt(ARGV[at + 2], command .. ': ' .. wrong.err) end
  end
  at = at + 2 + tonumber(ARGV[at + 1])
end

-- The first write is one that a full or read-only server refuses, so that it is refused before anything has changed.
if redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) == 1 or ARGV[3] == '1' then redis.call('EXPIRE', KEYS[1], 3600) end

-- Takes back what was added to so many counters, and says that this operation never will be done.
local function take_back(count, key, what, wrong)
  for done = 1, count do
    local key, delta = ARGV[counters[done] + 2], ARGV[counters[done] + 3]
    local back = string.sub(delta, 1, 1) == '-' and string.sub(delta, 2) or '-' .. delta
    if redis.call('INCRBY', key, back) == 0 then redis.call('DEL', key) end
  end
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', tonumber(ARGV[2]) + 1))
  return corrupt(key, what .. ': ' .. wrong.err)
end
for n = 1, #counters do
  local key = ARGV[counters[n] + 2]
  local sum = redis.pcall('INCRBY', key, ARGV[counters[n] + 3])
  if type(sum) == 'table' then return take_back(n - 1, key, 'INCRBY', sum) end
end
local hashes = #stats > 0 and { 'dirDataLength', 'dirUsedSpace', 'dirUsedInodes' }
for n = 1, #stats do
  local prefix, dir = ARGV[stats[n] + 2], ARGV[stats[n] + 3]
  for _, hash in ipairs(hashes) do
    local set = redis.pcall('HSET', prefix .. hash, dir, '0')
    if type(set) == 'table' then
      -- Statistics that are not there are computed.
      for done = 1, n do
        for _, other in ipairs(hashes) do
          redis.pcall('HDEL', ARGV[stats[done] + 2] .. other, ARGV[stats[done] + 3])
        end
      end
      return take_back(#counters, prefix .. hash, 'HSET', set)
    end
  end
end

-- Writes that are no single command.
local function special(command, key, field, a, b, c)
  if command == 'link' then
    if redis.call('HINCRBY', key, field, a) <= 0 then redis.call('HDEL', key, field) end
  elseif command == 'addquota' then
    if redis.call('HEXISTS', key, field) == 0 then return end
    if a ~= '0' then redis.call('HINCRBY', key .. 'UsedSpace', field, a) end
    if b ~= '0' then redis.call('HINCRBY', key .. 'UsedInodes', field, b) end
  else
    -- Statistics that cannot be read fail nothing: they are recomputed.
    if redis.pcall('HEXISTS', key .. 'dirUsedSpace', field) ~= 1 then return end
    if a ~= '0' then redis.pcall('HINCRBY', key .. 'dirDataLength', field, a) end
    if b ~= '0' then redis.pcall('HINCRBY', key .. 'dirUsedSpace', field, b) end
    if c ~= '0' then redis.pcall('HINCRBY', key .. 'dirUsedInodes', field, c) end
  end
end
at = first
while at <= #ARGV do
  local command, last = ARGV[at], at + 1 + tonumber(ARGV[at + 1])
  if command == 'link' or command == 'addquota' or command == 'addstat' then
    special(command, unpack(ARGV, at + 2, last))
  elseif command ~= 'INCRBY' and command ~= 'newstat' then
    redis.call(command, unpack(ARGV, at + 2, last))
  end
  at = last + 1
end
return 1
