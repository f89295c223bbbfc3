-- naq's shim for Lua: calls one function for one job. What comes with Lua only; Lua 5.1 and newer, and LuaJIT.
--
-- `runners/README.md` describes the contract: the call is JSON in the file `$NAQ_CALL_FILE`, the result and the error
-- go to the control channel, and stdin, stdout and stderr are the job's.

local RETRY_EXIT_CODE = 75
-- what a line of the control channel may have, unless the worker says otherwise; longer lines are dropped
local LINE_MAX = 256 * 1024
-- as in an envelope
local DEPTH_MAX = 64
local MESSAGE_MAX = 4000
local TRACE_MAX = 32000

local unpack = table.unpack or unpack

-- --- the module `naq` ---

local function class(name)
  local kind = { __name = name }
  kind.__index = kind
  kind.__tostring = function(self) return name .. ": " .. self.message end
  return kind
end

local Retry, Fatal = class("naq.Retry"), class("naq.Fatal")
local NotFound, SerializationError = class("NotFound"), class("SerializationError")

local naq = {
  -- JSON's null inside a list or an object: a table cannot hold nil
  null = setmetatable({}, { __name = "naq.null", __tostring = function() return "null" end }),
}
package.loaded.naq = naq

local ARRAY, OBJECT = { __name = "naq.array" }, { __name = "naq.object" }

--- Marks a table as a list, also if it is empty: an empty table is an object.
function naq.array(items) return setmetatable(items, ARRAY) end

--- What `error()` takes to end the job with the exit code that means "try again".
function naq.Retry(message, after) return setmetatable({ message = message or "retry", after = after }, Retry) end

--- What `error()` takes to fail the job, and no attempt follows.
function naq.Fatal(message) return setmetatable({ message = message or "fatal" }, Fatal) end

local function raise(kind, ...) error(setmetatable({ message = string.format(...) }, kind), 0) end

-- --- JSON ---

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local UNESCAPES = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

local function quote(text)
  return '"' .. text:gsub('[%c"\\]', function(c) return ESCAPES[c] or string.format("\\u%04x", c:byte()) end) .. '"'
end

--- The position of the first byte that is not UTF-8. nil if all is.
local function find_invalid(text)
  local at, size = 1, #text
  while true do
    at = text:find("[\128-\255]", at)
    if not at then return nil end
    local a, b, c, d = text:byte(at, at + 3)
    local function is_tail(byte) return byte and byte >= 128 and byte < 192 end
    if a >= 0xC2 and a < 0xE0 and is_tail(b) then
      at = at + 2
    elseif a >= 0xE0 and a < 0xF0 and is_tail(b) and is_tail(c) and (a ~= 0xE0 or b >= 0xA0) and (a ~= 0xED or b < 0xA0) then
      at = at + 3
    elseif a >= 0xF0 and a < 0xF5 and is_tail(b) and is_tail(c) and is_tail(d) and (a ~= 0xF0 or b >= 0x90) and (a ~= 0xF4 or b < 0x90) then
      at = at + 4
    else
      return at
    end
    if at > size then return nil end
  end
end

--- The text with a mark in the place of each byte that is not UTF-8.
local function valid(text)
  local pieces = {}
  while true do
    local at = find_invalid(text)
    if not at then
      pieces[#pieces + 1] = text
      return table.concat(pieces)
    end
    pieces[#pieces + 1] = text:sub(1, at - 1) .. "\239\191\189"
    text = text:sub(at + 1)
  end
end

local function is_list(value)
  if getmetatable(value) == ARRAY then return true end
  if getmetatable(value) == OBJECT or next(value) == nil then return false end
  local count = 0
  for key in pairs(value) do
    if type(key) ~= "number" then return false end
    count = count + 1
  end
  return count == #value
end

local encode

local function encode_table(value, path, depth)
  local pieces = {}
  if is_list(value) then
    for index = 1, #value do pieces[index] = encode(value[index], path .. "[" .. index .. "]", depth + 1) end
    return "[" .. table.concat(pieces, ",") .. "]"
  end
  local keys = {}
  for key in pairs(value) do
    if type(key) ~= "string" then
      raise(SerializationError, "%s: the key %s is a %s, and the table is no list; keys in JSON are strings", path, tostring(key), type(key))
    end
    if find_invalid(key) then raise(SerializationError, "a key of %s: the text is not valid UTF-8", path) end
    keys[#keys + 1] = key
  end
  table.sort(keys)
  for index, key in ipairs(keys) do
    local inner = key:match("^[%a_][%w_]*$") and path .. "." .. key or path .. "['" .. key .. "']"
    pieces[index] = quote(key) .. ":" .. encode(value[key], inner, depth + 1)
  end
  return "{" .. table.concat(pieces, ",") .. "}"
end

--- The value as JSON. What JSON cannot hold is an error with its path.
function encode(value, path, depth)
  if depth > DEPTH_MAX then
    raise(SerializationError, "%s: more than %d levels of nesting, or a reference to itself", path, DEPTH_MAX)
  end
  local kind = type(value)
  if value == nil or value == naq.null then return "null" end
  if kind == "boolean" then return tostring(value) end
  if kind == "number" then
    if value ~= value or value == math.huge or value == -math.huge then
      raise(SerializationError, "%s: JSON cannot hold the number %s", path, tostring(value))
    end
    if math.type and math.type(value) == "integer" then return string.format("%d", value) end
    -- the shortest text that is the same number
    local text = string.format("%.15g", value)
    if tonumber(text) ~= value then text = string.format("%.17g", value) end
    return math.type and not text:find("[.e]") and text .. ".0" or text
  end
  if kind == "string" then
    if find_invalid(value) then raise(SerializationError, "%s: the text is not valid UTF-8; return base64", path) end
    return quote(value)
  end
  if kind == "table" then return encode_table(value, path, depth) end
  raise(SerializationError, "%s: JSON cannot hold a %s", path, kind)
end

local function utf8_of(code)
  if code < 0x80 then return string.char(code) end
  if code < 0x800 then return string.char(0xC0 + math.floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then
    return string.char(0xE0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
  end
  return string.char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64, 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
end

local function decode_string(text, at)
  local pieces = {}
  while true do
    local stop = text:find('["\\]', at)
    pieces[#pieces + 1] = text:sub(at, stop - 1)
    if text:sub(stop, stop) == '"' then return table.concat(pieces), stop + 1 end
    local escape = text:sub(stop + 1, stop + 1)
    at = stop + 2
    if escape == "u" then
      local code = tonumber(text:sub(at, at + 3), 16)
      at = at + 4
      local low = code >= 0xD800 and code < 0xDC00 and text:match("^\\u([Dd][C-Fc-f]%x%x)", at)
      if low then
        code = 0x10000 + (code - 0xD800) * 1024 + tonumber(low, 16) - 0xDC00
        at = at + 6
      end
      pieces[#pieces + 1] = utf8_of(code)
    else
      pieces[#pieces + 1] = UNESCAPES[escape]
    end
  end
end

--- Reads a value of JSON, which naq has checked. Returns it and the position after it.
local function decode(text, at)
  at = text:find("%S", at)
  local first = text:sub(at, at)
  if first == '"' then return decode_string(text, at + 1) end
  if first == "{" or first == "[" then
    local value, close = setmetatable({}, first == "{" and OBJECT or ARRAY), first == "{" and "}" or "]"
    at = text:find("%S", at + 1)
    local count = 0
    while text:sub(at, at) ~= close do
      if text:sub(at, at) == "," then at = text:find("%S", at + 1) end
      count = count + 1
      local key, item = count, nil
      if first == "{" then
        key, at = decode_string(text, at + 1)
        at = text:find(":", at, true) + 1
      end
      item, at = decode(text, at)
      value[key] = item == nil and naq.null or item
      at = text:find("%S", at)
    end
    return value, at + 1
  end
  for word, value in pairs({ ["true"] = true, ["false"] = false }) do
    if text:sub(at, at + #word - 1) == word then return value, at + #word end
  end
  if text:sub(at, at + 3) == "null" then return nil, at + 4 end
  local number = text:match("^[%d.eE+-]+", at)
  return tonumber(number), at + #number
end

-- --- the control channel ---

local function line_max() return tonumber(os.getenv("NAQ_CONTROL_LINE_MAX") or "") or LINE_MAX end

local function write_control(line)
  -- Lua cannot write to a descriptor: it opens it by its name, or, if another user owns it, has `cat` write
  local control = io.open("/proc/self/fd/3", "ab") or io.open("/dev/fd/3", "ab") or io.popen("cat >&3", "w")
  control:write(line, "\n")
  control:close()
end

--- A text of at most about this many bytes, half of them from its beginning, half from its end.
local function shortened(text, size)
  if #text <= size then return valid(text) end
  local half = math.floor(size / 2)
  return valid(text:sub(1, half) .. "\n[" .. (#text - 2 * half) .. " characters left out]\n" .. text:sub(-half))
end

local function write_error(kind, message, trace, retry)
  local size = TRACE_MAX
  while true do
    local line = string.format('{"error":{"type":%s,"message":%s,"trace":%s%s}}', quote(kind),
      quote(shortened(message, math.min(size, MESSAGE_MAX))), quote(shortened(trace, size)), retry == nil and "" or ',"retry":' .. tostring(retry))
    if #line < line_max() or size < 16 then return write_control(line) end
    size = math.floor(size / 2)
  end
end

local function write_result(value)
  local line = '{"result":' .. encode(value, "result", 1) .. "}"
  if #line >= line_max() then
    raise(SerializationError, "result: %d bytes of JSON, and at most %d are kept; write it to stdout or to a file", #line + 1, line_max())
  end
  write_control(line)
end

-- --- the function ---

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

local function search(name, path)
  if package.searchpath then return package.searchpath(name, path) end
  for template in path:gmatch("[^;]+") do
    local file = template:gsub("%?", (name:gsub("%.", "/")))
    if exists(file) then return file end
  end
end

local function load_target(target, folders)
  if target:match("%.lua$") or target:match("/") then
    local places = {}
    for _, folder in ipairs(folders) do
      local place = target:sub(1, 1) == "/" and target or folder .. "/" .. target
      places[#places + 1] = place
      if exists(place) then return dofile(place) end
    end
    raise(NotFound, "no file %s", table.concat(places, " or "))
  end
  -- a module that the job's module requires is another matter: that error stays as it is
  if not package.loaded[target] and not package.preload[target] and not search(target, package.path) and not search(target, package.cpath) then
    raise(NotFound, "no module `%s` in %s", target, package.path)
  end
  return require(target)
end

local function find_function(call, folders)
  local target, name = call:match("^(.*[^:]):([%w_.]+)$")
  if not target then raise(NotFound, "`%s` is not `module:function` or `file.lua:function`", call) end
  local module = load_target(target, folders)
  local found = type(module) == "table" and module or _G
  for part in name:gmatch("[^.]+") do found = type(found) == "table" and found[part] or nil end
  if type(found) ~= "function" then raise(NotFound, "`%s` has no function `%s`", target, name) end
  return found
end

--- Reports an error, and returns the exit code.
local function report_error(problem)
  local value, trace = problem.value, problem.trace
  local kind = getmetatable(value)
  local is_own = kind == Retry or kind == Fatal or kind == NotFound or kind == SerializationError
  local message = is_own and value.message or tostring(value)
  local name = is_own and kind.__name or "error"
  local text = (is_own and name .. ": " or "") .. message .. "\n" .. trace
  io.stdout:flush()
  io.stderr:write(text, "\n")
  if kind == Retry then
    if value.after ~= nil then write_control('{"retry_after":' .. encode(value.after, "after", 1) .. "}") end
    write_error(name, message, text)
    return RETRY_EXIT_CODE
  end
  local retry = nil
  if is_own then retry = false end
  write_error(name, message, text, retry)
  return 1
end

local function on_error(value)
  -- frames of this file say nothing to the author of the function
  local lines = {}
  for line in debug.traceback("", 2):gmatch("[^\n]+") do
    if not line:find("naq-shim", 1, true) and not line:find(arg[0], 1, true) and not line:find("[C]:", 1, true) then
      lines[#lines + 1] = line
    end
  end
  return { value = value, trace = table.concat(lines, "\n") }
end

local function main()
  local file = assert(io.open(os.getenv("NAQ_CALL_FILE"), "rb"))
  local call = decode(file:read("*a"), 1)
  file:close()
  local folders, path = {}, {}
  for _, folder in ipairs(call.module_path or {}) do folders[#folders + 1] = folder end
  folders[#folders + 1] = "."
  for _, folder in ipairs(folders) do path[#path + 1] = folder .. "/?.lua;" .. folder .. "/?/init.lua" end
  package.path = table.concat(path, ";") .. ";" .. package.path
  -- null is nil here, where nothing has to hold it
  local args, count = {}, #call.args
  for index = 1, count do
    if call.args[index] ~= naq.null then args[index] = call.args[index] end
  end
  if next(call.kwargs or {}) ~= nil then
    count = count + 1
    args[count] = call.kwargs
  end
  local is_done, problem = xpcall(function()
    local value = find_function(call.call, folders)(unpack(args, 1, count))
    io.stdout:flush()
    write_result(value)
  end, on_error)
  return is_done and 0 or report_error(problem)
end

local status = main()
io.stdout:flush()
-- Lua 5.1 takes only the exit code
if math.type or table.pack then os.exit(status, true) else os.exit(status) end
