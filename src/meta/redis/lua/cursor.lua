-- Cursors that know their server.

-- Which server this is: a cursor of SCAN means something else on another one.
local function server()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
end

-- A step of SCAN or HSCAN, from the beginning if the cursor is another server's. Returns the next cursor and the items.
local function scan(from, step)
  local cursor, on = string.match(from, '^(%d+)@?(%w*)$')
  if cursor ~= '0' and on ~= server() then cursor = '0' end
  local reply = step(cursor)
  return reply[1] == '0' and '0' or reply[1] .. '@' .. server(), reply[2]
end
