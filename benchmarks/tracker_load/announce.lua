-- HTTP announces for wrk: wrk -s announce.lua URL -- HASHES PORTS keep-alive|close
-- The same info-hashes as udp.c and tracker.py.
local hashes, ports = {}, 200
-- Seeds have even ports. One announce in so many comes from a peer in its other role.
local CHANGES = 128

local function escaped(number)
  local bytes = {}
  for _, word in ipairs({ (number * 2654435761) % 2 ^ 32, number }) do
    for shift = 24, 0, -8 do
      bytes[#bytes + 1] = string.format("%%%02X", math.floor(word / 2 ^ shift) % 256)
    end
  end
  return table.concat(bytes) .. string.rep("%00", 12)
end

function init(args)
  math.randomseed(1)
  ports = tonumber(args[2])
  wrk.headers["Connection"] = args[3]
  for number = 0, tonumber(args[1]) - 1 do
    hashes[#hashes + 1] = escaped(number)
  end
end

function request()
  local port, other = math.random(10000, 9999 + ports), math.random(CHANGES) == 1 and 1 or 0
  return wrk.format("GET", "/announce?info_hash=" .. hashes[math.random(#hashes)]
    .. "&peer_id=-XX0001-" .. string.format("%012d", math.random(0, 99999999))
    .. "&port=" .. port
    .. "&uploaded=0&downloaded=0&left=" .. ((port + other) % 2 == 0 and 0 or 1000)
    .. "&numwant=50&compact=1")
end
