-- Believe no cache entry at or below a version. KEYS: floor. ARGV: the version (16 hex digits).
-- A floor never sinks: a batch that comes twice must not lower it. What is no version, or of
-- another type, is no floor.
local floor = redis.pcall('GET', KEYS[1])
if type(floor) ~= 'string' or floor < ARGV[1]
  or #floor ~= 16 or not string.find(floor, '^[0-9a-f]+$')
then
  redis.call('SET', KEYS[1], ARGV[1])
end
return 1
