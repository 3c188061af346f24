-- Take `cost` requests of a tenant's rate, or say when that will be possible (GCRA).
-- KEYS[1] holds the instant, in microseconds of this server's clock, at which the tenant is at rest
-- again. ARGV: microseconds a request, requests at once, cost. All are whole and above zero.
-- Answers {taken, left, microseconds until it may be tried again, until all is there again}.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local whole = interval * burst
local stored = redis.pcall('GET', KEYS[1])
local rest = type(stored) == 'string' and tonumber(stored) or now
if not (rest > now) then rest = now end
-- A limit that was raised, or a clock that was set, never makes anybody wait for more than all.
if rest > now + whole then rest = now + whole end
local after = rest + interval * cost
if after > now + whole then
    return {0, math.floor((now + whole - rest) / interval), after - whole - now, rest - now}
end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return {1, math.floor((now + whole - after) / interval), 0, after - now}
