-- Wireshark dissector for traces of quantfl (quantfl run --trace FILE). Put it into Wireshark's personal plugin folder, or
--   wireshark -X lua_script:tools/wireshark/quantfl.lua FILE
-- Frames: docs/PROTOCOL.md. The packets hold COBS-encoded frames with their delimiters.
local p = Proto("quantfl", "quantfl link")
local words = {[1] = "are you there?", [2] = "busy", [3] = "a frame had no place yet"}
local types = { [0] = "DATA", [1] = "ACK", [2] = "SYN", [3] = "SYNACK", [4] = "RST", [5] = "DATA FIN" }
-- Name and traffic category of each kind of message, as in firmware/lib/qfl_device/include/qfl_msg.h (a test compares them).
local kinds = {
  [1] = { "INFO", "SERVICE" },
  [2] = { "PUT_BEGIN", "TRANSFER" },
  [3] = { "PUT_DATA", "TRANSFER" },
  [4] = { "PUT_END", "TRANSFER" },
  [5] = { "CONFIG", "TRAINING" },
  [6] = { "TRAIN", "TRAINING" },
  [7] = { "UPDATE", "TRAINING" },
  [8] = { "EVAL", "EVALUATION" },
  [9] = { "STATUS", "SERVICE" },
  [10] = { "COUNTERS", "SERVICE" },
  [11] = { "TRAIN_UPDATE", "TRAINING" },
  [12] = { "STATS", "STATISTICS" },
  [13] = { "SELFTEST", "SERVICE" },
  [14] = { "KEYS", "SECURITY" },
  [15] = { "RESUME", "TRAINING" },
}
local f = p.fields
f.type = ProtoField.uint8("quantfl.type", "Type", base.DEC, types)
f.fin = ProtoField.bool("quantfl.fin", "Last of its message")
f.message = ProtoField.uint8("quantfl.message", "Message number")
f.session = ProtoField.uint8("quantfl.session", "Session number")
f.seq = ProtoField.uint8("quantfl.seq", "Frame")
f.ack = ProtoField.uint8("quantfl.ack", "Next frame expected")
f.word = ProtoField.uint8("quantfl.word", "Says", base.DEC, words)
f.busy = ProtoField.uint32("quantfl.busy_ms", "Busy for at most (ms)")
f.payload = ProtoField.bytes("quantfl.payload", "Payload")
f.version = ProtoField.uint8("quantfl.version", "Version")
f.nonce = ProtoField.uint32("quantfl.nonce", "Nonce", base.HEX)
f.window = ProtoField.uint8("quantfl.window", "Window")
f.frame = ProtoField.uint16("quantfl.frame", "Bytes per frame")

local function cobs(bytes, first, last)
  local out, at = ByteArray.new(), first
  while at <= last do
    local code = bytes:get_index(at)
    for i = at + 1, math.min(at + code - 1, last) do
      out:set_size(out:len() + 1)
      out:set_index(out:len() - 1, bytes:get_index(i))
    end
    at = at + code
    if code < 255 and at <= last then
      out:set_size(out:len() + 1)
      out:set_index(out:len() - 1, 0)
    end
  end
  return out
end

function p.dissector(buffer, info, tree)
  local bytes = buffer:bytes()
  local first, last = 0, bytes:len() - 1
  while first <= last and bytes:get_index(first) == 0 do first = first + 1 end
  while last >= first and bytes:get_index(last) == 0 do last = last - 1 end
  info.cols.protocol = "quantfl"
  local plain = cobs(bytes, first, last)
  if plain:len() < 6 then
    info.cols.info = "noise"
    return
  end
  local t = plain:tvb("quantfl frame")
  local n, head = t:len() - 4, t(0, 1):uint()
  local kind, text = head % 8, types[head % 8] or "noise"
  local s = tree:add(p, t(0, n))
  s:add(f.type, t(0, 1), kind)
  s:add(f.fin, t(0, 1), kind == 5)
  s:add(f.message, t(0, 1), math.floor(head / 8) % 8)
  s:add(f.session, t(0, 1), math.floor(head / 64))
  if (kind == 0 or kind == 5) and n >= 3 then
    s:add(f.seq, t(1, 1))
    s:add(f.ack, t(2, 1))
    text = text .. " seq " .. t(1, 1):uint() .. " ack " .. t(2, 1):uint()
    if n > 3 then
      s:add(f.payload, t(3, n - 3))
      local k = t(3, 1):uint() % 64
      local kind_of = kinds[k] or { "kind " .. k, "unknown" }
      text = text .. " (" .. kind_of[1] .. ", " .. kind_of[2] .. ", if it begins a message)"
    end
  elseif kind == 1 and n >= 2 then
    s:add(f.ack, t(1, 1))
    text = text .. " " .. t(1, 1):uint()
    if n >= 5 then
      s:add(f.word, t(4, 1))
      text = text .. ", " .. (words[t(4, 1):uint()] or "?")
    end
    if n == 9 then s:add_le(f.busy, t(5, 4)) end
  elseif (kind == 2 or kind == 3) and n >= 13 then
    s:add(f.version, t(1, 1))
    s:add_le(f.nonce, t(2, 4))
    s:add(f.window, t(6, 1))
    s:add_le(f.frame, t(7, 2))
  end
  info.cols.info = text
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, p)
