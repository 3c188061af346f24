-- Move the checkpoint. KEYS: checkpoint, floor. ARGV: the checkpoint we left, the new one.
-- A checkpoint that is not the one we left means that this server lost what it had (a restart from
-- an older file, a flush): entries may be back that we had marked, so none below the new position
-- may be believed any more, which is what the floor says.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[2])
end
return redis.call('SET', KEYS[1], ARGV[2])
