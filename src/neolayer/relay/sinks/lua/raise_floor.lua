-- Believe no cache entry at or below a version. KEYS: floor. ARGV: the version (16 hex digits).
-- A floor never sinks: a batch that comes twice must not lower it.
if (redis.call('GET', KEYS[1]) or '') < ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1])
end
return 1
