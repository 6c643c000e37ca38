-- Compares what a transaction has read and applies what it writes, all or nothing.
--
-- KEYS: first those that the server is to tell this client of from now on; in a cluster, all others behind them.
-- ARGV: the hash of tokens, slot, operation, '1' to have the tokens expire an hour from now, how many keys to tell of; then,
-- each behind their number:
--   records to compare: '=' .. how, key, field, value, or '-' .. how, key, field for an absent one (get has no field);
--   what to look at before the first write: how, key, field;
--   counters: key, what to add;
--   directories that get statistics: prefix of the keys, directory;
-- and the writes: a command and its arguments, of most commands behind their number.
-- Returns 1 when committed, 2 when committed and the server will not tell, 0 when the slot has seen a later operation, or
-- {n, value, …} of the records that differ.
local call, try, argv = redis.call, redis.pcall, ARGV
local tokens, slot, operation = argv[1], argv[2], argv[3]
local token = call('HGET', tokens, slot)
if token and tonumber(token) >= tonumber(operation) then return 0 end

local at, changed = 7, {}
for n = 1, tonumber(argv[6]) do
  local how, key, expected, now = argv[at], argv[at + 1], false
  if how == '=get' then
    now, expected, at = try('GET', key), argv[at + 2], at + 3
  elseif how == '-get' then
    now, at = try('GET', key), at + 2
  elseif how == '=hget' then
    now, expected, at = try('HGET', key, argv[at + 2]), argv[at + 3], at + 4
  elseif how == '-hget' then
    now, at = try('HGET', key, argv[at + 2]), at + 3
  else
    local found, wrong = read(string.sub(how, 2), key, argv[at + 2])
    now, at = wrong and { err = wrong } or found, at + 3
    if string.sub(how, 1, 1) == '=' then expected, at = argv[at], at + 1 end
  end
  if now ~= expected then
    if type(now) == 'table' then return corrupt(key, now.err) end
    changed[#changed + 1] = n
    changed[#changed + 1] = now
  end
end
if #changed > 0 then return changed end

-- A script that fails half-way is not undone. So what a write would stumble over is looked for before the first one,
-- except for counters and new statistics, which can be taken back: they come first.
local function number(value)
  if not value or type(value) == 'table' or (#value < 19 and string.match(value, '^%-?%d+$')) then return value end
  return { err = 'not a number: ' .. string.sub(value, 1, 32) }
end
local looks = tonumber(argv[at])
at = at + 1
for _ = 1, looks do
  local how, key, found = argv[at], argv[at + 1]
  if how == 'number' then
    found = number(try('HGET', key, argv[at + 2]))
  elseif how == 'HGET' then
    found = try('HGET', key, argv[at + 2])
  else
    found = try(how, key)
  end
  if type(found) == 'table' then return corrupt(key, how .. ': ' .. found.err) end
  at = at + 3
end

-- The first write is one that a full or read-only server refuses, so that it is refused before anything has changed.
if call('HSET', tokens, slot, operation) == 1 or argv[4] == '1' then call('EXPIRE', tokens, 3600) end

local counters = at + 1
local stats = counters + 2 * tonumber(argv[at]) + 1
local writes = stats + 2 * tonumber(argv[stats - 1])

-- Takes back what was added to the counters before this place, and says that this operation never will be done.
local function take_back(stop, key, what, wrong)
  for done = counters, stop - 1, 2 do
    local key, delta = argv[done], argv[done + 1]
    local back = string.sub(delta, 1, 1) == '-' and string.sub(delta, 2) or '-' .. delta
    if call('INCRBY', key, back) == 0 then call('DEL', key) end
  end
  call('HSET', tokens, slot, string.format('%.0f', tonumber(operation) + 1))
  return corrupt(key, what .. ': ' .. wrong.err)
end
for n = counters, stats - 2, 2 do
  local sum = try('INCRBY', argv[n], argv[n + 1])
  if type(sum) == 'table' then return take_back(n, argv[n], 'INCRBY', sum) end
end
for n = stats, writes - 1, 2 do
  local prefix, dir = argv[n], argv[n + 1]
  for _, hash in ipairs({ 'dirDataLength', 'dirUsedSpace', 'dirUsedInodes' }) do
    local set = try('HSET', prefix .. hash, dir, '0')
    if type(set) == 'table' then
      -- Statistics that are not there are computed.
      for done = stats, n, 2 do
        for _, other in ipairs({ 'dirDataLength', 'dirUsedSpace', 'dirUsedInodes' }) do
          try('HDEL', argv[done] .. other, argv[done + 1])
        end
      end
      return take_back(stats - 1, prefix .. hash, 'HSET', set)
    end
  end
end

-- Writes that are no single command. Statistics that cannot be read fail nothing: they are recomputed.
local function special(command, key, field, a, b, c)
  if command == 'addstat' then
    if try('HEXISTS', key .. 'dirUsedSpace', field) ~= 1 then return end
    if a ~= '0' then try('HINCRBY', key .. 'dirDataLength', field, a) end
    if b ~= '0' then try('HINCRBY', key .. 'dirUsedSpace', field, b) end
    if c ~= '0' then try('HINCRBY', key .. 'dirUsedInodes', field, c) end
  elseif command == 'delstat' then
    try('HDEL', key .. 'dirDataLength', field)
    try('HDEL', key .. 'dirUsedSpace', field)
    try('HDEL', key .. 'dirUsedInodes', field)
  elseif command == 'delquota' then
    call('HDEL', key, field)
    try('HDEL', key .. 'UsedSpace', field)
    try('HDEL', key .. 'UsedInodes', field)
  elseif command == 'link' then
    if call('HINCRBY', key, field, a) <= 0 then call('HDEL', key, field) end
  elseif command == 'addquota' then
    if call('HEXISTS', key, field) == 0 then return end
    if a ~= '0' then call('HINCRBY', key .. 'UsedSpace', field, a) end
    if b ~= '0' then call('HINCRBY', key .. 'UsedInodes', field, b) end
  else
    return false
  end
end
at = writes
while at <= #argv do
  local command = argv[at]
  if command == 'SET' then
    call('SET', argv[at + 1], argv[at + 2])
    at = at + 3
  elseif command == 'HSET' then
    call('HSET', argv[at + 1], argv[at + 2], argv[at + 3])
    at = at + 4
  elseif command == 'HDEL' then
    call('HDEL', argv[at + 1], argv[at + 2])
    at = at + 3
  elseif command == 'DEL' then
    call('DEL', argv[at + 1])
    at = at + 2
  else
    local last = at + 1 + tonumber(argv[at + 1])
    if special(command, unpack(argv, at + 2, last)) == false then call(command, unpack(argv, at + 2, last)) end
    at = last + 1
  end
end

-- Of what a client has read the server tells, up to the next write: its own, too. What is committed stays so if the server
-- refuses, as it does for keys that are gone while their slot of a cluster is on its way to another node.
local told = tonumber(argv[5])
if told > 0 and type(try('EXISTS', unpack(KEYS, 1, told))) == 'table' then return 2 end
return 1
