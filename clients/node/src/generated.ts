// Written from schemas/envelope.v1.json, schemas/record.v1.json, schemas/input.v1.json, schemas/schedule.v1.json, schemas/worker.v1.json by `npm run types`. Do not edit.

/** A file that a job has left, and that is kept with its record. */
export type Artifact = {
  /** The size, in bytes. */
  bytes: number;
  /** The digest of the content. */
  digest: string;
  /** Its path in the job's work folder. */
  name: string;
  /** The object in the bucket `naq_files` that holds the content. */
  object: string;
};

/** How the wait before a retry grows. */
export type Backoff = "fixed" | "linear" | "exponential";

/** What a blocked job waits for. */
export type BlockedOn = {
  /** The concurrency key whose slots are all in use. */
  concurrency_key?: string | null;
  /** The dependencies that are not satisfied yet. */
  dependencies?: Dependency[];
  /** When the job was blocked. */
  since: string;
  /** When a dependency that is still missing fails the job. */
  until?: string | null;
};

/**
 * One captured output stream. If it was longer than its limit, `text` or `base64` holds its head
 * and `tail` its end in the same form. If what was kept does not fit into the record, `object` names
 * it, and `text` or `base64` holds only its beginning.
 */
export type CapturedOutput = {
  /** The bytes in base64, if they are not UTF-8. */
  base64?: string | null;
  /** The number of bytes that the job wrote. */
  bytes: number;
  /**
   * The number of bytes between head and tail that are missing. Absent if none are, and in a
   * record of an earlier version.
   */
  missing_bytes?: number | null;
  /** The object in the bucket `naq_files` that holds everything that was kept. */
  object?: string | null;
  /**
   * The length of the head in the object, in bytes; the tail follows. Absent unless the output is
   * truncated and in an object.
   */
  object_head_bytes?: number | null;
  /** The end of a truncated output, as text or base64 like the head. */
  tail?: string | null;
  /** The bytes as text, if they are UTF-8. */
  text?: string | null;
  /** Whether bytes between head and tail are missing. */
  truncated?: boolean;
};

/** A job that has to end before another one starts. The id alone stands for an object with `job`. */
export type Dependency = string | {
  /** The name under which the other job gets its output. */
  as?: string | null;
  /** The id of the job. */
  job: string;
  /** How it has to end; `success` if absent. */
  on?: "success" | "failure" | "finished" | null;
};

/**
 * A job as a producer describes it: one JSON object.
 *
 * Readers ignore and keep unknown fields. They refuse an envelope whose unknown field is a limit, is
 * listed in `must_understand`, or has the name of a planned field. `null` stands for an absent field.
 */
export type Envelope = {
  /** Arguments: strings, numbers and booleans for a command or script, any JSON for a function. */
  args?: unknown[] | null;
  /** Patterns of files in the work folder that are kept when an attempt has ended. */
  artifacts?: string[] | null;
  /** The program: a path, relative to `cwd`, or a name that is looked up in the worker's PATH. */
  command?: string | null;
  /** A key: at most `concurrency_max` jobs with the same key run at once, across all workers. */
  concurrency_key?: string | null;
  /** How many jobs of the concurrency key may run at once; 1 if absent. */
  concurrency_max?: number | null;
  /**
   * The working directory; that of the worker if absent, or the job's work folder if it has files or artifacts. A
   * relative path starts there.
   */
  cwd?: string | null;
  /** How long a dependency may be missing before the job fails; 24 hours if absent. */
  dependency_timeout?: number | string | null;
  /** Jobs that must finish before this one starts. */
  depends_on?: Dependency[] | null;
  /** When the producer enqueued the job; the time of the message on the server if absent. */
  enqueue_time?: string | null;
  /** Variables to add to the job's environment, if the worker's policy allows them. */
  env?: { [name: string]: string } | null;
  /** The time from which on the job is not started. */
  expires_at?: string | null;
  /** Exit codes not to retry. */
  fatal_on?: number[] | null;
  /** Uploaded files, which are placed into the job's work folder before each attempt. */
  files?: UploadedFile[] | null;
  /** The function that `runner` calls, such as `module:name`. The runner says what it may look like. */
  function?: string | null;
  /** Any JSON value, passed to the program on standard input. */
  input?: unknown;
  /** Which outputs of these jobs the job gets, and how; those that have a name, as files, if absent. */
  inputs?: Inputs | null;
  /** The id of the job. If absent, the `Nats-Msg-Id` header, or else the queue and the sequence. */
  job_id?: string | null;
  /** Named arguments of a function. */
  kwargs?: { [name: string]: unknown } | null;
  /** Labels for filters. */
  labels?: { [name: string]: string } | null;
  /** Limits on the resources of the job's processes. */
  limits?: ResourceLimits | null;
  /** The number of retries after the first attempt; 0 if absent. */
  max_retries?: number | null;
  /** Any JSON value; naq stores and shows it, and never interprets it. */
  meta?: unknown;
  /** Folders in which the function's runner looks for modules first, relative to `cwd`. */
  module_path?: string[] | null;
  /**
   * Names of fields that a worker must know to run the job, the fields of `limits` as
   * `limits.<name>`. A worker that does not know one rejects the job.
   */
  must_understand?: Array<"version" | "job_id" | "command" | "script" | "script_digest" | "function" | "runner" | "module_path" | "args" | "kwargs" | "input" | "stdin" | "stdin_base64" | "env" | "secrets" | "cwd" | "files" | "artifacts" | "timeout" | "limits" | "max_retries" | "retry_delay" | "retry_strategy" | "retry_max_delay" | "retry_jitter" | "retry_on" | "fatal_on" | "success_on" | "depends_on" | "inputs" | "dependency_timeout" | "expires_at" | "result_ttl" | "concurrency_key" | "concurrency_max" | "overlap_ok" | "labels" | "requires" | "meta" | "enqueue_time" | "traceparent" | "rerun_of" | "schedule_id" | "scheduled_for" | "must_understand" | "limits.memory" | "limits.address_space" | "limits.cpu_time" | "limits.cpus" | "limits.processes" | "limits.open_files" | "limits.file_size" | "limits.output" | "limits.nice"> | null;
  /**
   * Whether the job bears that two of its attempts overlap: during an outage of NATS its worker may
   * let it run past the end of its lease; false if absent.
   */
  overlap_ok?: boolean | null;
  /** Labels that a worker must have to run the job. */
  requires?: { [name: string]: string } | null;
  /** The finished job that this job reruns; set by a retry by hand. */
  rerun_of?: string | null;
  /** How long the record stays after the job has finished; 0 means forever. */
  result_ttl?: number | string | null;
  /** The wait before a retry: one duration, or a list with one duration for each retry. */
  retry_delay?: number | string | Array<number | string> | null;
  /** Whether each wait is a random part of its length (full jitter); true if absent. */
  retry_jitter?: boolean | null;
  /** The longest wait before a retry. */
  retry_max_delay?: number | string | null;
  /** Exit codes to retry; all failures if absent. 75 is always retried. */
  retry_on?: number[] | null;
  /** How the wait grows from one retry to the next. */
  retry_strategy?: Backoff | null;
  /**
   * The runner of a script or a function: the name of a language such as `python`, with the runner's
   * parameter after a colon if it has one. A function needs it.
   */
  runner?: string | null;
  /** The schedule that enqueued the job; set by the scheduler. */
  schedule_id?: string | null;
  /** The tick of the schedule; set by the scheduler. */
  scheduled_for?: string | null;
  /** Inline source text, run by its `#!` line, or else by `runner`, or else by `sh`. */
  script?: string | null;
  /**
   * The digest of inline source code that is stored as an uploaded file, since it is too long for a
   * message.
   */
  script_digest?: string | null;
  /** Names of secrets that the worker adds to the environment from its own store. */
  secrets?: string[] | null;
  /** Text, passed to the program on standard input unchanged. */
  stdin?: string | null;
  /** Bytes in base64, passed to the program on standard input. */
  stdin_base64?: string | null;
  /** Exit codes besides 0 that count as success. */
  success_on?: number[] | null;
  /** The longest duration of one attempt; the worker's default if absent. */
  timeout?: number | string | null;
  /** The W3C trace context that the job receives as TRACEPARENT. */
  traceparent?: string | null;
  /** The version of this format; 1 if absent. A higher version is rejected. */
  version?: 1 | null;
};

/** The exception by which an attempt failed. */
export type Exception = {
  /** Whether every retry would fail in the same way. */
  fatal?: boolean;
  /** Its message: at most the first 4,096 bytes. */
  message: string;
  /** The trace, in the form of its language: at most the last 16,384 bytes. */
  trace?: string | null;
  /** The name of its type, such as `ValueError`: at most the first 256 bytes. */
  type: string;
};

/** An attempt that failed and was followed by a retry. */
export type FailedAttempt = {
  /** The number of the attempt. */
  attempt: number;
  /** When it ended. */
  ended_at: string;
  /** What went wrong: at most the first 1,024 bytes. */
  error?: string | null;
  /** The exit code of its first process. */
  exit_code?: number | null;
  /** Why it failed. */
  reason: Reason;
  /** The signal that killed its first process. */
  signal?: number | null;
  /** When it started. */
  started_at?: string | null;
  /** The last 1,024 bytes of its standard error, as text. Absent if there are none. */
  stderr_tail?: string | null;
  /** The last 1,024 bytes of its standard output, as text. Absent if there are none. */
  stdout_tail?: string | null;
  /** The resources that it used. */
  usage?: ResourceUsage | null;
  /** The worker that ran it. */
  worker_id?: string | null;
};

/** A place at which bytes of an output were not kept. */
export type InputGap = {
  /** The number of bytes that are missing. */
  missing_bytes: number;
  /** The number of bytes before it. */
  offset: number;
};

/** Which outputs of its dependencies a job gets, and how. */
export type Inputs = "named" | "all" | "stdin";

/** An attempt that ended without an outcome. */
export type Interruption = {
  /** When another worker, or the same one later, found out. */
  at: string;
  /** The number of the attempt. Absent in a record of an earlier version. */
  attempt?: number | null;
  /**
   * Whether the worker or its spawner process crashed. Otherwise the worker gave its lease up
   * during an outage of NATS and stopped the job, which is no crash.
   */
  crashed: boolean;
  /**
   * Whether other jobs ran in the process that crashed, or may have. Nobody knows which of them
   * was the cause, so the crash is not counted, and the job became a suspect.
   */
  shared?: boolean;
  /** When the attempt started. Absent in a record of an earlier version. */
  started_at?: string | null;
  /** The worker that ran the attempt. */
  worker_id: string;
};

/**
 * A dependency as the job that depends on it sees it: how it ended, and what it left. It is the content of
 * `record.json` in the folder of the dependency, and a line of standard input with `"inputs": "stdin"`.
 */
export type JobInput = {
  /** Its name in `depends_on`. */
  as?: string | null;
  /** The number of its attempts. */
  attempt: number;
  /** The same in words. */
  error?: string | null;
  /** The exit code of its last attempt. */
  exit_code?: number | null;
  /** When it ended. */
  finished_at?: string | null;
  /** Its place in `depends_on`, from 0. */
  index: number;
  /** The id of the dependency. */
  job_id: string;
  /** Its labels. */
  labels?: { [name: string]: string };
  /** Its queue. */
  queue: string;
  /** Why it did not succeed. */
  reason?: Reason | null;
  /** Its structured result. Absent if it has none, and in `record.json`: it is in `result.json`. */
  result?: unknown;
  /** The signal that ended its last attempt. */
  signal?: number | null;
  /** How it ended. */
  state: State;
  /** What was kept of its standard output, if that is UTF-8. Absent in `record.json`: it is in `stdout`. */
  stdout?: string | null;
  /** The same in base64, if it is not UTF-8. */
  stdout_base64?: string | null;
  /** The number of bytes that it wrote to its standard output. */
  stdout_bytes: number;
  /** The place at which bytes of its standard output are missing. Absent if all were kept. */
  stdout_gap?: InputGap | null;
};

/** The progress that a job reported last. */
export type JobProgress = {
  /** A message. */
  message?: string | null;
  /** Percentage, 0 to 100. */
  percent?: number | null;
};

/** A job's record in the bucket `naq_results`. A worker claims the job and records its outcome by compare-and-set on this record. */
export type JobRecord = {
  /** The files that the last attempt has left, as far as they are kept. */
  artifacts?: Artifact[];
  /** The number of the current or last attempt; 0 before the first one. */
  attempt: number;
  /** Whether a cancel was requested. */
  cancel_requested?: boolean;
  /** The checkpoint that the job reported last; the next attempt receives it. */
  checkpoint?: unknown;
  /** How many workers or spawner processes crashed that ran the job alone, or ran it as a suspect. */
  crashes?: number;
  /** Whether all dependencies are satisfied; they are then not looked up again. */
  dependencies_met?: boolean;
  /** When the server stored the job's message. */
  enqueue_time: string;
  /**
   * The envelope, while the job is blocked and after it has finished. It contains names of secrets,
   * never their values.
   */
  envelope?: unknown;
  /** The digest of the envelope's bytes, which reveals another envelope under the same id. */
  envelope_digest?: string | null;
  /** The object in the bucket `naq_files` that holds the envelope, if it is too large for the record. */
  envelope_object?: string | null;
  /** What went wrong. */
  error?: string | null;
  /** The exception by which the last attempt failed, as the job reported it over its control channel. */
  exception?: Exception | null;
  /** The exit code of the last attempt's first process. */
  exit_code?: number | null;
  /**
   * The last attempts that failed and were retried, oldest first; at most 16. While the job waits
   * for a retry, the last of them is also what the record's own fields describe.
   */
  failed_attempts?: FailedAttempt[];
  /**
   * How many workers in a row could not start the job because their machines were short of
   * something.
   */
  failed_starts?: number;
  /**
   * A number that only grows over the attempts of the job, also if the bucket loses its last records
   * or is made again: the time of the claim in milliseconds since the Unix epoch, but more than the
   * attempt before. A job passes it on, so that writes of a stale attempt can be refused.
   */
  fence?: number;
  /** When the job finished or, while it waits for a retry, when its last attempt ended. */
  finished_at?: string | null;
  /** Whether other jobs depend on this one. */
  has_dependents?: boolean;
  /** The last attempts that ended by a crash or a lost lease, oldest first; at most 16. */
  interruptions?: Interruption[];
  /** The id of the job. */
  job_id: string;
  /** The envelope's labels. */
  labels?: { [name: string]: string };
  /** Whether processes outlived the first one and were killed. */
  leaked?: boolean;
  /** The worker's lease, while the job is running. */
  lease?: Lease | null;
  /**
   * How many attempts were stopped because their worker lost its lease during an outage of NATS.
   * They use up no retry.
   */
  lost_leases?: number;
  /** When the next attempt may start. */
  next_attempt_at?: string | null;
  /**
   * Whether the record is a placeholder: other jobs depend on the job, but no worker has seen it,
   * and it may not exist.
   */
  placeholder?: boolean;
  /**
   * What the last attempt did before its start, such as installing what its script needs. Absent if it had
   * nothing to do.
   */
  preparation?: Preparation | null;
  /** The progress that the job reported last. */
  progress?: JobProgress | null;
  /** The queue of the job. */
  queue: string;
  /** Why the job finished as it did, or why its last attempt failed; absent after a success. */
  reason?: Reason | null;
  /** The job that this job reruns. */
  rerun_of?: string | null;
  /** The structured result that the job sent over its control channel. */
  result?: unknown;
  /**
   * The object in the bucket `naq_files` that holds the structured result, if it is too large for
   * the record.
   */
  result_object?: string | null;
  /** The schedule that enqueued the job. */
  schedule_id?: string | null;
  /** The tick of its schedule, or the start for which the job was enqueued. */
  scheduled_for?: string | null;
  /**
   * How many attempts ended in a crash that other jobs may have caused. Like `crashes` they use up
   * no retry, and unlike `crashes` they never fail the job.
   */
  shared_crashes?: number;
  /** The signal that killed the last attempt's first process. */
  signal?: number | null;
  /** When the current or last attempt started. */
  started_at?: string | null;
  /** The state of the job. */
  state: State;
  /** The standard error of the last attempt: the log. */
  stderr?: CapturedOutput | null;
  /** The standard output of the last attempt: the result. */
  stdout?: CapturedOutput | null;
  /**
   * The sequence of the message by which the job was blocked, or by which the attempt ran that is
   * retried. The message is removed; if it is redelivered before that, it must not start the job.
   */
  superseded_sequence?: number | null;
  /**
   * Whether the job may have crashed a worker or a spawner process that also ran other jobs. Such
   * a job runs alone, one at a time on each worker, until an attempt ends without a crash.
   */
  suspect?: boolean;
  /** The W3C trace context from the headers of its message. That of the envelope takes precedence. */
  traceparent?: string | null;
  /** The resources that the last attempt used. */
  usage?: ResourceUsage | null;
  /** What the job waits for, while it is blocked. */
  waits?: BlockedOn | null;
  /** Problems that did not make the job fail. */
  warnings?: string[];
  /** The worker that runs or last ran the job. */
  worker_id?: string | null;
};

/**
 * A worker's lease on a job: its right to run the job while it keeps the message that the lease
 * names.
 */
export type Lease = {
  /**
   * Whether the worker runs the job alone: as its only job, or as its only suspect and in a
   * spawner process of its own. A crash is then the job's.
   */
  alone?: boolean;
  /**
   * Whether the worker claimed the job while it ran as many others as it may, to start it as soon as one of
   * them ends. Nobody knows whether such a job has started, so its worker's crash is not counted as the
   * job's.
   */
  claimed_ahead?: boolean;
  /** The delivery count of that message when the job was claimed; the first delivery is 1. */
  delivery: number;
  /** The sequence of its message in the queue's stream. */
  sequence: number;
  /** The worker that holds the lease. */
  worker_id: string;
};

/** What to do with ticks that no scheduler enqueued in time. */
export type Misfire = "skip" | "once" | "all";

/** What to do with a tick while the job of the previous one has not finished. */
export type Overlap = "allow" | "skip" | "queue" | "replace";

/** What an attempt did before its start, outside of the job's timeout. */
export type Preparation = {
  /** What it wrote, standard output first: at most the last 4,096 bytes. */
  output: string;
  /** How long it took, in milliseconds. */
  wall_ms: number;
};

/** Why a job finished as it did, or why its last attempt failed. */
export type Reason = "exit" | "signal" | "timeout" | "oom" | "cpu_time" | "file_size" | "spawn" | "dependency" | "crashed" | "lost" | "output" | "unstorable" | "invalid" | "unsupported_version" | "not_allowed" | "cancelled";

/** Limits on one job's processes. An absent limit is the worker's default. */
export type ResourceLimits = {
  /** Address space of one process, used or not, in bytes. */
  address_space?: number | string | null;
  /** CPU time of one process, in seconds. */
  cpu_time?: number | string | null;
  /** Number of CPUs (0.5 is half of one); needs a worker with a cpu controller. */
  cpus?: number | null;
  /** The largest file the job may write, in bytes. */
  file_size?: number | string | null;
  /** Memory that all processes use together, in bytes. */
  memory?: number | string | null;
  /** Niceness, -20 (highest priority) to 19 (lowest). */
  nice?: number | null;
  /** Number of open files of one process. */
  open_files?: number | null;
  /** Bytes to keep of each of stdout and stderr. */
  output?: number | string | null;
  /** Number of processes and threads. */
  processes?: number | null;
};

/** The resources that a job's processes used. */
export type ResourceUsage = {
  /** CPU time in the kernel, in milliseconds. */
  cpu_system_ms: number;
  /** CPU time in user mode, in milliseconds. */
  cpu_user_ms: number;
  /** The largest resident set size of any one process, in bytes. */
  max_rss_bytes: number;
  /** Time from start to end, in milliseconds. */
  wall_ms: number;
};

/** How far a schedule has advanced; written by the scheduler. */
export type ScheduleProgress = {
  /**
   * Every tick up to and including this time was enqueued or skipped. If absent, the schedule's
   * `created_at`.
   */
  done_until?: string | null;
  /** The number of consecutive ticks that could not be enqueued. */
  failures?: number;
  /**
   * The schedule was paused or has ended since `done_until`. If it is active, that was changed by
   * hand, and the scheduler continues from the time at which it sees that.
   */
  inactive?: boolean;
  /** Why the last of them could not be enqueued. */
  last_error?: string | null;
  /** The job of that tick. */
  last_job_id?: string | null;
  /** The last tick that was enqueued. */
  last_run?: string | null;
  /**
   * When a user last triggered a job, in addition to the ticks. Each trigger has a later time than
   * the one before, so that its job has an id of its own.
   */
  last_trigger?: string | null;
  /** The number of late ticks that `misfire` skipped, and of ticks that could not be enqueued. */
  missed?: number;
  /** `missed` is a lower bound: after a long outage, not all of the ticks were counted. */
  missed_is_minimum?: boolean;
  /** The number of jobs enqueued. */
  runs?: number;
  /** The number of ticks that `overlap` skipped. */
  skipped?: number;
};

/** A schedule, as stored in the bucket `naq_scheduled_jobs` under its id. */
export type ScheduleRecord = {
  /** The time from which intervals are counted; `start` or else `created_at` if absent. */
  anchor?: string | null;
  /** When it was created. */
  created_at: string;
  /** The cron expression. Either `cron` or `every` is set. */
  cron?: string | null;
  /** The time of the latest tick. */
  end?: string | null;
  /** The envelope of each of its jobs, without an id. */
  envelope: {
    enqueue_time?: null;
    expires_at?: null;
    job_id?: null;
    schedule_id?: null;
    scheduled_for?: null;
  };
  /** The interval between two ticks. Either `cron` or `every` is set. */
  every?: number | string | null;
  /** The longest random delay of a tick; each tick gets its own delay. */
  jitter?: number | string | null;
  /** What to do with late ticks. */
  misfire?: Misfire | null;
  /** How late a tick may be and still be on time; a minute if absent. */
  misfire_grace?: number | string | null;
  /** The most late ticks that are enqueued under `all`; 100 if absent. */
  misfire_max?: number | null;
  /** The next tick, if a user set it. Later ticks follow the cron expression or the interval. */
  next_run?: string | null;
  /** What to do with a tick while the previous job has not finished. */
  overlap?: Overlap | null;
  /** Why the scheduler paused it; absent if a user did. */
  paused_reason?: string | null;
  /** How far it has advanced; from `created_at` if absent. */
  progress?: ScheduleProgress | null;
  /** The queue of its jobs. */
  queue: string;
  /** How many jobs it enqueues in total; no limit if absent. */
  repeat?: number | null;
  /** The id of the schedule. */
  schedule_id: string;
  /** The set that it was applied with. When the set is applied without it, it is deleted. */
  set?: string | null;
  /** The time of the earliest tick. */
  start?: string | null;
  /** Whether its ticks are enqueued. */
  status?: ScheduleStatus | null;
  /** The IANA time zone of `cron`; UTC if absent. */
  tz?: string | null;
};

/** The status of a schedule. */
export type ScheduleStatus = "active" | "paused" | "ended";

/** The state of a job. A record of a later version may have another one. */
export type State = "scheduled" | "queued" | "waiting" | "running" | "retrying" | "succeeded" | "failed" | "cancelled" | "expired" | "rejected";

/** A file that a producer has uploaded, and that a worker places into the job's work folder. */
export type UploadedFile = {
  /** The size, in bytes. */
  bytes: number;
  /** The digest of the content, by which it is stored. */
  digest: string;
  /** Whether the file can be executed; false if absent. */
  executable?: boolean | null;
  /** The path in the work folder: names with `/` between them, none of them `.` or `..`. */
  path: string;
};

/** A worker's heartbeat. */
export type WorkerInfo = {
  /** How many jobs it runs at once at most. */
  concurrency: number;
  /** How it contains the processes of a job: `cgroup`, `namespace` or `subreaper`. */
  containment: string;
  /** The host that the worker runs on. */
  hostname: string;
  /** The ids of its running jobs, at most 100. */
  jobs: string[];
  /** How many jobs have ended since it started. */
  jobs_ended: number;
  /** The labels of the worker. */
  labels?: { [name: string]: string };
  /** When it wrote this heartbeat. */
  last_seen: string;
  /**
   * How it keeps the memory limit of a job: `enforced` by the kernel, or `watched`, so that a job
   * may use more between two samples. `None` from a worker of an earlier version.
   */
  memory_limit?: string | null;
  /** The worker's name; the host's name unless it was set. */
  name: string;
  /** Its process id on that host. */
  pid: number;
  /** The queues that it pulls from, in order of priority. */
  queues: string[];
  /**
   * The runners whose programs this worker has found, each with the version of its program; an empty text
   * if the program does not say it. Empty until the worker has looked, some seconds after its start.
   */
  runners?: { [name: string]: string };
  /** How many jobs it runs now, with those whose outcome is not recorded yet. */
  running: number;
  /** When the worker started. */
  started_at: string;
  /** What the worker is doing. */
  state: WorkerState;
  /** Why NATS does not store them. `None` if there are none. */
  unstored_error?: string | null;
  /**
   * How many of its claims and outcomes NATS does not store at the moment, for example because the
   * store is full. While there are any, the worker takes no more jobs.
   */
  unstored_outcomes?: number;
  /** The version of naq. */
  version: string;
  /** The worker's id, unique to this process. */
  worker_id: string;
};

/** What a worker is doing. */
export type WorkerState = "idle" | "busy" | "draining";
