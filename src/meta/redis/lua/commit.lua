-- Compares what a transaction has read and applies what it writes, all or nothing.
--
-- KEYS: the hash of tokens. ARGV: slot, operation; the number of records to compare, then for each how, key, field and
-- '=' .. value or '-' for an absent one; then the writes: a command, the number of its arguments, the arguments.
-- Returns 1 when committed, 0 when the slot has seen a later operation, or {n, value, …} of the records that differ.
local token = redis.call('HGET', KEYS[1], ARGV[1])
if token and tonumber(token) >= tonumber(ARGV[2]) then return 0 end

local at, changed = 4, {}
for n = 1, tonumber(ARGV[3]) do
  local now = read(ARGV[at], ARGV[at + 1], ARGV[at + 2])
  if (now and '=' .. now or '-') ~= ARGV[at + 3] then
    changed[#changed + 1] = n
    changed[#changed + 1] = now
  end
  at = at + 4
end
if #changed > 0 then return changed end

-- The first write is one that a full or read-only server refuses, so that it is refused before anything has changed.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], 3600)

-- Writes that are no single command.
local special = {
  link = function(key, dir, count)
    if redis.call('HINCRBY', key, dir, count) <= 0 then redis.call('HDEL', key, dir) end
  end,
  addstat = function(prefix, ino, length, space, inodes)
    if redis.call('HEXISTS', prefix .. 'dirUsedSpace', ino) == 0 then return end
    redis.call('HINCRBY', prefix .. 'dirDataLength', ino, length)
    redis.call('HINCRBY', prefix .. 'dirUsedSpace', ino, space)
    redis.call('HINCRBY', prefix .. 'dirUsedInodes', ino, inodes)
  end,
  addquota = function(prefix, ino, space, inodes)
    if redis.call('HEXISTS', prefix .. 'dirQuota', ino) == 0 then return end
    redis.call('HINCRBY', prefix .. 'dirQuotaUsedSpace', ino, space)
    redis.call('HINCRBY', prefix .. 'dirQuotaUsedInodes', ino, inodes)
  end,
}
while at <= #ARGV do
  local command, last = ARGV[at], at + 1 + tonumber(ARGV[at + 1])
  if special[command] then
    special[command](unpack(ARGV, at + 2, last))
  else
    redis.call(command, unpack(ARGV, at + 2, last))
  end
  at = last + 1
end
return 1
