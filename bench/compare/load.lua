-- wrk -s load.lua URL -- DEPTH [WEIGHT PATH]...
--
-- Sends the paths in turn, each as often as its weight says and as evenly as it can be, DEPTH requests at a
-- time; without paths, the path of the URL. Prints what wrk has counted as one line of JSON.

local function in_turn(args)
  local paths, total = {}, 0
  for i = 2, #args, 2 do
    table.insert(paths, {weight = tonumber(args[i]), path = args[i + 1], due = 0})
    total = total + tonumber(args[i])
  end
  local turns = {}
  for _ = 1, total do
    local next
    for _, each in ipairs(paths) do
      each.due = each.due + each.weight
      if next == nil or each.due > next.due then next = each end
    end
    next.due = next.due - total
    table.insert(turns, wrk.format("GET", next.path))
  end
  if total == 0 then turns[1] = wrk.format("GET") end
  return turns
end

function init(args)
  local depth = tonumber(args[1] or "1")
  local turns = in_turn(args)
  if depth > 1 then
    for i, text in ipairs(turns) do turns[i] = text:rep(depth) end
  elseif #turns == 1 then
    return -- wrk sends one request faster by itself
  end
  local at = 0
  request = function()
    at = at % #turns + 1
    return turns[at]
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration": %d, "connect": %d, "read": %d, "write": %d, "status": %d, ' ..
    '"timeout": %d, "p50": %.1f, "p90": %.1f, "p99": %.1f, "max": %.1f}\n',
    summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.status,
    errors.timeout, latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
