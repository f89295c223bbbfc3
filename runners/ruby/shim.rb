# frozen_string_literal: true

# naq's shim for Ruby: calls one method for one job. The standard library only; Ruby 2.7 and newer.
#
# `runners/README.md` describes the contract: the call is JSON in the file `$NAQ_CALL_FILE`, the result and the error
# go to the control channel, and stdin, stdout and stderr are the job's.
require "json"

module Naq
  # Ends the job with the exit code that means "try again": `raise Naq::Retry.new("busy", after: "30s")`.
  class Retry < StandardError
    attr_reader :after

    def initialize(message = "retry", after: nil)
      super(message)
      @after = after
    end
  end

  # Fails the job, and no attempt follows.
  class Fatal < StandardError; end
end

# What is the shim's own.
module NaqShim
  RETRY_EXIT_CODE = 75
  # what a line of the control channel may have, unless the worker says otherwise; longer lines are dropped
  LINE_MAX = 256 * 1024
  # as in an envelope
  DEPTH_MAX = 64
  MESSAGE_MAX = 4000
  TRACE_MAX = 32_000

  # The file or the method does not exist.
  class NotFound < StandardError; end

  # JSON cannot hold the result.
  class SerializationError < StandardError; end

  module_function

  # --- values ---

  # The value as what JSON writes unchanged. What JSON cannot hold is an error with its path.
  def to_json_value(value, path, depth = 1)
    if depth > DEPTH_MAX
      raise SerializationError, "#{path}: more than #{DEPTH_MAX} levels of nesting, or a reference to itself"
    end

    case value
    when nil, true, false, Integer then value
    when Float
      raise SerializationError, "#{path}: JSON cannot hold the number #{value}" unless value.finite?

      value
    when Symbol then text(value.to_s, path)
    when String then text(value, path)
    when Array then value.each_with_index.map { |item, index| to_json_value(item, "#{path}[#{index}]", depth + 1) }
    when Hash
      value.each_with_object({}) do |(key, item), converted|
        unless key.is_a?(String) || key.is_a?(Symbol)
          raise SerializationError, "#{path}: the key #{key.inspect} is a #{key.class}; keys in JSON are strings"
        end

        name = text(key.to_s, "a key of #{path}")
        inner = name.match?(/\A[A-Za-z_]\w*\z/) ? "#{path}.#{name}" : "#{path}[#{name.inspect}]"
        converted[name] = to_json_value(item, inner, depth + 1)
      end
    when Struct then to_json_value(value.to_h, path, depth)
    else
      raise SerializationError, "#{path}: JSON cannot hold a #{value.class}#{hint(value)}"
    end
  end

  def hint(value)
    return "; return its `iso8601`" if value.respond_to?(:iso8601)
    return "; return its `to_a`" if value.respond_to?(:to_a)
    return "; return its `to_h`" if value.respond_to?(:to_h)

    ""
  end

  def text(value, path)
    utf8 = value.encoding == Encoding::UTF_8 ? value : value.encode(Encoding::UTF_8)
    raise SerializationError, "#{path}: the text is not valid UTF-8; return base64" unless utf8.valid_encoding?

    utf8
  rescue EncodingError
    raise SerializationError, "#{path}: the text is not valid #{value.encoding}; return base64"
  end

  # --- the control channel ---

  def line_max
    max = ENV["NAQ_CONTROL_LINE_MAX"].to_s
    max.empty? ? LINE_MAX : Integer(max)
  end

  # Takes the control channel: a descriptor of the shim's own, which the job does not close by mistake.
  def open_control
    @control = IO.for_fd(3, "wb", autoclose: false).dup
    @control.sync = true
  end

  def write_control(line)
    @control.write("#{JSON.generate(line)}\n")
  rescue SystemCallError, IOError
    # the worker has gone
  end

  def write_result(value)
    line = { "result" => to_json_value(value, "result") }
    size = JSON.generate(line).bytesize + 1
    if size > line_max
      raise SerializationError,
            "result: #{size} bytes of JSON, and at most #{line_max} are kept; write it to stdout or to a file"
    end
    write_control(line)
  end

  def write_error(type, message, trace, retry_allowed = nil)
    size = TRACE_MAX
    loop do
      error = { "type" => type, "message" => shortened(message, [size, MESSAGE_MAX].min),
                "trace" => shortened(trace, size) }
      error["retry"] = retry_allowed unless retry_allowed.nil?
      line = { "error" => error }
      return write_control(line) if size < 16 || JSON.generate(line).bytesize < line_max

      size /= 2
    end
  end

  def valid(text)
    # what has no encoding, or that of a C locale, is UTF-8 more often than anything else
    return text.dup.force_encoding(Encoding::UTF_8).scrub if [Encoding::BINARY, Encoding::US_ASCII].include?(text.encoding)

    text.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub
  end

  # A text of at most about this many characters, half of them from its beginning, half from its end.
  def shortened(text, size)
    return text if text.length <= size

    half = size / 2
    "#{text[0, half]}\n[#{text.length - (2 * half)} characters left out]\n#{text[-half, half]}"
  end

  # --- the method ---

  def find_method(call, module_path)
    target, name = call.match(/\A(.*[^:]):([^:].*)\z/m)&.captures
    raise NotFound, "`#{call}` is not `file:method` or `file:Module.method`" if target.nil?

    load_target(target, module_path)
    scope, dot, method_name = name.rpartition(".")
    receiver = dot.empty? ? TOPLEVEL_BINDING.receiver : Object.const_get(scope)
    raise NotFound, "`#{target}` defines no method `#{name}`" unless receiver.respond_to?(method_name, true)

    receiver.method(method_name)
  rescue NameError => e
    raise unless e.is_a?(NameError) && !e.is_a?(NoMethodError) && scope.to_s.split("::").include?(e.name.to_s)

    raise NotFound, "`#{target}` defines no `#{scope}`"
  end

  def load_target(target, module_path)
    if target.end_with?(".rb") || target.start_with?("/", "./", "../")
      places = [*module_path, Dir.pwd].map { |folder| File.expand_path(target, folder) }.uniq
      file = places.find { |place| File.file?(place) }
      raise NotFound, "no file #{places.join(' or ')}" if file.nil?

      require file
    else
      begin
        require target
      rescue LoadError => e
        # a file that the job's file requires is another matter: that error stays as it is
        raise unless e.path == target

        raise NotFound, "no file `#{target}.rb` in #{$LOAD_PATH.join(', ')}"
      end
    end
  end

  def run_call(call)
    pid = Process.pid
    found = find_method(call["call"], call["module_path"] || [])
    kwargs = (call["kwargs"] || {}).transform_keys(&:to_sym)
    value = found.call(*(call["args"] || []), **kwargs)
    # a child that the method forked and that returned from it
    exit!(0) if Process.pid != pid
    flush
    write_result(value)
    0
  rescue SystemExit => e
    raise if e.success? || e.status == RETRY_EXIT_CODE || Process.pid != pid

    write_error("SystemExit", "exit #{e.status}", format_trace(e))
    raise
  rescue SignalException
    raise
  rescue Exception => e # rubocop:disable Lint/RescueException
    status = report_error(e)
    Process.pid == pid ? status : exit!(1)
  end

  # As Ruby prints it, without the frames of this file, which say nothing to the author of the method. Ruby's own
  # `full_message` breaks what the locale does not hold.
  def format_trace(error, depth = 1)
    frames = (error.backtrace || []).reject { |frame| frame.start_with?(__FILE__) }
    first = frames.empty? ? "" : "#{frames.first}: "
    lines = ["#{first}#{valid(error.message.to_s)} (#{error.class})", *frames.drop(1).map { |frame| "\tfrom #{frame}" }]
    text = "#{valid(lines.join("\n"))}\n"
    text += format_trace(error.cause, depth + 1) if error.cause && depth < 8
    text
  end

  # Reports an error, and returns the exit code.
  def report_error(error)
    trace = format_trace(error)
    flush
    begin
      $stderr.write(trace)
    rescue SystemCallError, IOError
      # the job closed its stderr
    end
    message = valid(error.message.to_s)
    case error
    when NotFound, SerializationError
      write_error(error.class.name.split("::").last, message, trace, false)
    when Naq::Retry
      write_control({ "retry_after" => error.after }) if error.after.is_a?(Numeric) || error.after.is_a?(String)
      write_error(error.class.name, message, trace)
      return RETRY_EXIT_CODE
    else
      write_error(error.class.name || "an unnamed class", message, trace, error.is_a?(Naq::Fatal) ? false : nil)
    end
    1
  end

  def flush
    $stdout.flush
    $stderr.flush
  rescue SystemCallError, IOError
    # the job closed it
  end

  def main
    open_control
    call = JSON.parse(File.read(ENV.delete("NAQ_CALL_FILE"), encoding: "UTF-8"), max_nesting: false)
    $LOAD_PATH.unshift(*[*(call["module_path"] || []), Dir.pwd].map { |folder| File.expand_path(folder) }.uniq)
    $PROGRAM_NAME = call["call"]
    exit(run_call(call))
  end
end


NaqShim.main if $PROGRAM_NAME == __FILE__
