-- Mark cache entries as changed at a version, so that a slow reader cannot put an older row back.
-- KEYS: the entries. ARGV: time to live in ms, then one version per entry (16 hex digits, which
-- compare as text; numbers would lose their last bits). Returns how many were marked.
local marked = 0
for i, key in ipairs(KEYS) do
  if redis.call('GETRANGE', key, 0, 15) < ARGV[i + 1] then
    redis.call('SET', key, ARGV[i + 1] .. '-', 'PX', ARGV[1])
    marked = marked + 1
  end
end
return marked
