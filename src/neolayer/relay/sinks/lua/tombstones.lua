-- Mark cache entries as changed at a version, so that a slow reader cannot put an older row back.
-- KEYS: the entries. ARGV: time to live in ms, then one version per entry (16 hex digits, which
-- compare as text; numbers would lose their last bits). Returns how many were marked.
-- Only an entry of ours says that something newer is known: a key of another type (GETRANGE fails)
-- or a string of another form gives way, as it would hold up this call, or the key, for ever.
local marked = 0
for i, key in ipairs(KEYS) do
  local entry, version = redis.pcall('GETRANGE', key, 0, 16), ARGV[i + 1]
  if type(entry) ~= 'string' or entry < version
    or #entry ~= 17 or not string.find(entry, '^[0-9a-f]+[+-]$')
  then
    redis.call('SET', key, version .. '-', 'PX', ARGV[1])
    marked = marked + 1
  end
end
return marked
