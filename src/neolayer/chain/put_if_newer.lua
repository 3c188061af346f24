-- Put a value read from PostgreSQL unless something newer is known.
-- KEYS: entry, floor. ARGV: the version taken before the read (16 hex digits), value, time to live
-- in ms. Returns 1 if it was put. An entry, a tombstone or a floor of the same or a higher version
-- means that the row may have changed after it was read. What is no entry of ours (a key of another
-- type, a string of another form) says nothing and gives way; under a floor of another type nothing
-- is put until the relay has put that right.
local version = ARGV[1]
local entry = redis.pcall('GETRANGE', KEYS[1], 0, 16)
if type(entry) == 'table' and not string.find(entry.err, 'WRONGTYPE', 1, true) then
  return entry
end
if type(entry) == 'string' and entry >= version
  and #entry == 17 and string.find(entry, '^[0-9a-f]+[+-]$')
then
  return 0
end
local floor = redis.pcall('GET', KEYS[2])
if floor and (type(floor) ~= 'string' or floor >= version) then
  return 0
end
redis.call('SET', KEYS[1], version .. '+' .. ARGV[2], 'PX', ARGV[3])
return 1
