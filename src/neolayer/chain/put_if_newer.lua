-- Put a value read from PostgreSQL unless something newer is known.
-- KEYS: entry, floor. ARGV: the version taken before the read (16 hex digits), value, time to live
-- in ms. Returns 1 if it was put. An entry, a tombstone or a floor of the same or a higher version
-- means that the row may have changed after it was read.
local version = ARGV[1]
if redis.call('GETRANGE', KEYS[1], 0, 15) >= version then
  return 0
end
if (redis.call('GET', KEYS[2]) or '') >= version then
  return 0
end
redis.call('SET', KEYS[1], version .. '+' .. ARGV[2], 'PX', ARGV[3])
return 1
