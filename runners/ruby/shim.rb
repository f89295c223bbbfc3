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
    open_control
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

  def load_path(folders)
    $LOAD_PATH.unshift(*[*folders, Dir.pwd].map { |folder| File.expand_path(folder) }.uniq)
  end

  def main
    return warm if ARGV.include?("--warm")

    call = JSON.parse(File.read(ENV.delete("NAQ_CALL_FILE"), encoding: "UTF-8"), max_nesting: false)
    load_path(call["module_path"] || [])
    $PROGRAM_NAME = call["call"]
    exit(run_call(call))
  end

  # --- the warm protocol ---

  # The worker's end of the socket: frames are a length of 4 bytes and a JSON object.
  class Worker
    attr_reader :socket

    def initialize
      @socket = UNIXSocket.for_fd(Integer(ENV.fetch("NAQ_WARM_FD")))
      @socket.close_on_exec = true
      @buffer = "".b
      # descriptors come with the first byte of a frame `job`, and no other frame has any
      @descriptors = []
    end

    def send(frame)
      data = JSON.generate(frame).b
      @socket.write([data.bytesize].pack("N") + data)
    end

    # Reads what has arrived, or waits for it. Returns the complete frames; nil if the worker has gone.
    def receive
      data, _, flags, *controls = @socket.recvmsg(65_536, 0, 4096, scm_rights: true)
      controls.each { |control| @descriptors.concat(control.unix_rights || []) }
      return nil if data.nil? || data.empty?
      raise "descriptors were lost: this process may open no more" if (flags & Socket::MSG_CTRUNC) != 0

      @buffer << data
      frames = []
      while @buffer.bytesize >= 4 && @buffer.bytesize >= 4 + (size = @buffer.unpack1("N"))
        frames << JSON.parse(@buffer.slice!(0, 4 + size).byteslice(4, size).force_encoding("UTF-8"), max_nesting: false)
      end
      frames
    end

    def take_descriptors
      @descriptors.shift(4)
    end
  end

  # Forks a child for each job, and waits. It runs no code of a job.
  class Zygote
    def initialize(worker)
      @worker = worker
      # by process id: the job's number and the socket to the child
      @children = {}
      @ready = {}
      @wakeup, @wakeup_write = IO.pipe
      trap("CHLD") { @wakeup_write.write_nonblock("c", exception: false) }
      # TERM reaches the whole tree of a job that is stopped; it is for the job's processes
      trap("TERM", "IGNORE")
    end

    def run
      until @is_stopping && @children.empty?
        readable, = IO.select([@worker.socket, @wakeup, *@ready.keys])
        readable.each do |io|
          if io == @worker.socket
            frames = @worker.receive
            # the children are the spawner's now; one that waits for its `go` sees the end of its socket
            return if frames.nil?

            frames.each { |frame| on_frame(frame) }
          elsif io == @wakeup
            @wakeup.read_nonblock(512, exception: false)
            reap
          elsif @ready.key?(io)
            on_ready(io)
          end
        end
      end
    end

    def on_frame(frame)
      case frame["t"]
      when "job" then fork_job(frame)
      when "go"
        _, child = @children.find { |_, (number, _)| number == frame["n"] }
        if child
          begin
            child[1].write("g")
          rescue SystemCallError
            # the child was killed meanwhile
          end
        end
      when "ping" then @worker.send("t" => "pong", "rss" => NaqShim.rss)
      when "stop" then @is_stopping = true
      when "pong" then nil
      else @worker.send("t" => "huh")
      end
    end

    def fork_job(frame)
      descriptors = @worker.take_descriptors
      ours, theirs = UNIXSocket.pair
      pid = fork do
        NaqShim.be_child(frame, descriptors, theirs)
      end
      theirs.close
      descriptors.each(&:close)
      @children[pid] = [frame["n"], ours]
      @ready[ours] = pid
    end

    def on_ready(link)
      pid = @ready.delete(link)
      number, = @children[pid]
      # nothing: the child died before it was ready, and `ended` follows
      @worker.send("t" => "started", "n" => number, "pid" => pid) if link.recv(1) == "r"
    end

    def reap
      @children.keys.each do |pid|
        # of a process that has ended, before it is forgotten
        usage = NaqShim.times_of(pid)
        _, status = Process.wait2(pid, Process::WNOHANG)
        next if status.nil?

        child = @children.delete(pid)
        peak = child[1].read_nonblock(32, exception: false)
        usage["rss"] = peak.to_i if peak.is_a?(String) && peak.to_i.positive?
        @ready.delete(child[1])
        child[1].close
        @worker.send({ "t" => "ended", "n" => child[0], "status" => status.to_i }.merge(usage))
      end
    end
  end

  def times_of(pid)
    fields = File.read("/proc/#{pid}/stat").rpartition(")").last.split
    ticks = Etc.sysconf(Etc::SC_CLK_TCK).to_f
    { "utime" => fields[11].to_i / ticks, "stime" => fields[12].to_i / ticks }
  rescue SystemCallError
    {}
  end

  def rss
    Integer(File.read("/proc/self/statm").split[1]) * Etc.sysconf(Etc::SC_PAGESIZE)
  rescue SystemCallError
    0
  end

  # The most memory that this process has had, in bytes.
  def peak_rss
    File.read("/proc/self/status")[/^VmHWM:\s+(\d+)/, 1].to_i * 1024
  rescue SystemCallError
    0
  end

  def count_threads
    Dir.children("/proc/self/task").length
  rescue SystemCallError
    Thread.list.length
  end

  def cuda?
    File.binread("/proc/self/maps").include?("libcuda.")
  rescue SystemCallError
    false
  end

  def warm
    require "etc"
    require "socket"
    # of which Ruby has its own, which it starts again after a fork
    threads_before = count_threads
    worker = Worker.new
    @module_path = (ENV["NAQ_MODULE_PATH"] || "").split(":").reject(&:empty?).map { |folder| File.expand_path(folder) }
    load_path(@module_path)
    begin
      JSON.parse(ENV["NAQ_PRELOAD"] || "[]").each { |name| load_target(name, @module_path) }
    rescue Exception => e # rubocop:disable Lint/RescueException
      trace = format_trace(e)
      $stderr.write(trace)
      error = { "type" => e.class.name.to_s, "message" => shortened(valid(e.message), MESSAGE_MAX), "trace" => shortened(trace, TRACE_MAX) }
      worker.send("t" => "broken", "error" => error)
      exit!(1)
    end
    flush
    GC.start
    threads = 1 + [count_threads - threads_before, Thread.list.length - 1].max
    is_forkable = threads == 1 && !cuda? && !RUBY_PLATFORM.include?("darwin")
    folders = [*@module_path, Dir.pwd].map { |folder| "#{folder}/" }
    files = $LOADED_FEATURES.select { |file| file.start_with?(*folders) }.first(1000)
    worker.send("t" => "hello", "protocol" => 1, "pid" => Process.pid, "version" => RUBY_VERSION,
                "modes" => is_forkable ? %w[fork standby] : %w[standby], "threads" => threads, "cuda" => cuda?,
                "rss" => rss, "files" => files)
    ENV["NAQ_WARM_MODE"] == "standby" ? standby(worker) : Zygote.new(worker).run
    exit!(0)
  end

  # The forked child: makes itself a process like a cold one, then waits for its `go`.
  def be_child(frame, descriptors, link)
    reset_signals
    Process.setsid
    put_descriptors(descriptors)
    close_others(link)
    link.write("r")
    # nothing: the shim has gone
    exit!(70) unless link.read(1) == "g"
    # no program that the job executes gets it
    link.close_on_exec = true
    pid = Process.pid
    at_exit { link.write_nonblock(peak_rss.to_s, exception: false) if Process.pid == pid }
    run_warm_job(frame)
  end

  # Takes one job, which ends this process.
  def standby(worker)
    job = nil
    while (frames = worker.receive)
      frames.each do |frame|
        case frame["t"]
        when "job"
          job = frame
          reset_signals
          begin
            Process.setsid
          rescue Errno::EPERM
            # the leader of a session already
          end
          put_descriptors(worker.take_descriptors)
          worker.send("t" => "started", "n" => job["n"], "pid" => Process.pid)
        when "go"
          worker.socket.close
          run_warm_job(job)
        when "ping" then worker.send("t" => "pong", "rss" => rss)
        when "stop" then return job ? nil : exit!(0)
        when "pong" then nil
        else worker.send("t" => "huh")
        end
      end
    end
  end

  def reset_signals
    %w[CHLD TERM INT HUP QUIT].each { |name| trap(name, "DEFAULT") }
  end

  def put_descriptors(descriptors)
    return if descriptors.empty?

    [[STDIN, "r"], [STDOUT, "w"], [STDERR, "w"], [IO.for_fd(3, "w", autoclose: false), "w"]]
      .zip(descriptors) do |(stream, mode), descriptor|
        stream.reopen(IO.for_fd(descriptor.fileno, mode, autoclose: false))
        stream.close_on_exec = false
        descriptor.close
      end
    STDERR.sync = true
  end

  # Those that Ruby has for itself stay: it does not give them away, and no program that is executed gets them.
  def close_others(link)
    Dir.children("/proc/self/fd").map(&:to_i).each do |number|
      next if number <= 3 || number == link.fileno

      begin
        IO.for_fd(number).close
      rescue ArgumentError, SystemCallError
        # Ruby's own, or that of the folder
      end
    end
  end

  # Runs the job as a process of its own would, and ends this process.
  def run_warm_job(job)
    booted_in = Dir.pwd
    ENV.replace(job["env"] || {})
    File.umask(job["umask"]) if job["umask"]
    Dir.chdir(job["cwd"])
    # the working directory of the job in place of that of the shim
    $LOAD_PATH.delete(booted_in) unless @module_path.include?(booted_in)
    $LOAD_PATH.insert(@module_path.length, Dir.pwd)
    srand
    ARGV.replace(job["file"] ? job["args"].map(&:to_s) : [])
    $PROGRAM_NAME = job["file"] || job["call"]
    unless job["file"]
      job["module_path"] = @module_path
      exit(run_call(job))
    end
    load(job["file"])
    exit(0)
  end
end

NaqShim.main if $PROGRAM_NAME == __FILE__
