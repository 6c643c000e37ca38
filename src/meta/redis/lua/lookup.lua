-- KEYS: the directory's hash. ARGV: the name, the key prefix. Returns the entry and the attributes it leads to.
local entry, wrong = read('hget', KEYS[1], ARGV[1])
if wrong then return corrupt(KEYS[1], wrong) end
if not entry then return false end
local ok, found = pcall(attr, ARGV[2], entry)
if not ok then return corrupt(ARGV[2] .. 'i' .. inode(entry), message(found)) end
return { entry, found }
