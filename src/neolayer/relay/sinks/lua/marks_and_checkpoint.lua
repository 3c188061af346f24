-- Mark cache entries as tombstones.lua does, and move the checkpoint: at once, so that a write
-- costs one call and neither is there without the other.
-- KEYS: checkpoint, floor, the entries. ARGV: the checkpoint we left, the new one, time to live in
-- ms, then one version per entry.
for i = 3, #KEYS do
  local entry, version = redis.pcall('GETRANGE', KEYS[i], 0, 16), ARGV[i + 1]
  if type(entry) ~= 'string' or entry < version
    or #entry ~= 17 or not string.find(entry, '^[0-9a-f]+[+-]$')
  then
    redis.call('SET', KEYS[i], version .. '-', 'PX', ARGV[3])
  end
end
-- A checkpoint that is not the one we left means that this server lost what it had (a restart from
-- an older file, a flush): entries may be back that we had marked, so none below the new position
-- may be believed any more, which is what the floor says. Nor may they where the floor is gone or
-- is none: what it said nobody knows.
local floor = redis.pcall('GET', KEYS[2])
if redis.pcall('GET', KEYS[1]) ~= ARGV[1]
  or type(floor) ~= 'string' or #floor ~= 16 or not string.find(floor, '^[0-9a-f]+$')
then
  redis.call('SET', KEYS[2], ARGV[2])
end
return redis.call('SET', KEYS[1], ARGV[2])
