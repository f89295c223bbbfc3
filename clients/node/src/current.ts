// The job that this process runs.
import { readFileSync, writeSync } from "node:fs";
import { ConfigurationError, NaqError } from "./errors.js";
import { type Duration, duration, json } from "./values.js";

const LINE_MAX = 256 * 1024;
const RETRY_EXIT_CODE = 75;

/** This process runs no job of naq. */
export class NotInJobError extends NaqError {}

/**
 * The job that this process runs. Outside a job `progress`, `checkpoint`, `result` and `retryAfter` do nothing, so that
 * a function can be called and tested as it is; what describes the job throws NotInJobError.
 */
export const current = {
  /** Whether this process runs a job of naq. */
  get isActive(): boolean {
    return process.env["NAQ_JOB_ID"] !== undefined;
  },
  /** The job's id. */
  get jobId(): string {
    return variable("NAQ_JOB_ID");
  },
  /** The job's queue. */
  get queue(): string {
    return variable("NAQ_QUEUE");
  },
  /** The number of this attempt. 1 is the first. */
  get attempt(): number {
    return Number(variable("NAQ_ATTEMPT"));
  },
  /** How many attempts the job has at most. */
  get maxAttempts(): number {
    return Number(variable("NAQ_MAX_ATTEMPTS"));
  },
  /** A number that only grows over the job's attempts: pass it to a database so that it refuses a stale one. */
  get fence(): number {
    return Number(variable("NAQ_FENCE"));
  },
  /** A folder of the attempt's own, removed afterwards. */
  get workDir(): string {
    return variable("NAQ_WORK_DIR");
  },
  /** The schedule that the job comes from. */
  get scheduleId(): string | undefined {
    variable("NAQ_JOB_ID");
    return process.env["NAQ_SCHEDULE_ID"];
  },
  /** The time of the schedule that the job is for, or the time that it was delayed to. */
  get scheduledFor(): Date | undefined {
    variable("NAQ_JOB_ID");
    const text = process.env["NAQ_SCHEDULED_FOR"];
    return text === undefined ? undefined : new Date(text);
  },
  /** The checkpoint of the attempt before. `undefined` if it wrote none, or outside a job. */
  get lastCheckpoint(): unknown {
    const path = process.env["NAQ_CHECKPOINT_FILE"];
    return path ? JSON.parse(readFileSync(path, "utf8")) : undefined;
  },
  /** Reports how far the job is, from 0 to 100. Of several reports in a second the last one is kept. */
  progress(percent: number, message?: string): void {
    if (!(percent >= 0 && percent <= 100)) throw new ConfigurationError(`progress: ${percent} is not a percentage from 0 to 100`);
    send({ progress: percent, ...(message !== undefined && { message: json(message, "message") }) });
  },
  /** Stores a value for the next attempt, in place of the one before. At most 256 KiB of JSON. */
  checkpoint(value: unknown): void {
    send({ checkpoint: json(value, "checkpoint") });
  },
  /** Sets the job's structured result, in place of the one before. At most 256 KiB of JSON. */
  result(value: unknown): void {
    send({ result: json(value, "result") });
  },
  /** Sets the wait before the next attempt, if there is one. */
  retryAfter(delay: Duration): void {
    send({ retry_after: duration(delay, "retryAfter") });
  },
  /** Ends this process with the exit code that means "try again". The job is retried while it has attempts left. */
  retry(after?: Duration): never {
    if (after !== undefined) this.retryAfter(after);
    process.exit(RETRY_EXIT_CODE);
  },
};

function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new NotInJobError(`this process runs no job of naq: ${name} is not set`);
  return value;
}

function send(line: { [name: string]: unknown }): void {
  const descriptor = process.env["NAQ_CONTROL_FD"];
  if (descriptor === undefined) return;
  const data = Buffer.from(`${JSON.stringify(line)}\n`);
  if (data.length > LINE_MAX) {
    throw new ConfigurationError(`${Object.keys(line)[0]}: ${data.length} bytes of JSON, and at most ${LINE_MAX} are kept; use a file`);
  }
  try {
    for (let at = 0; at < data.length; ) at += writeSync(Number(descriptor), data, at);
  } catch {
    // a child of the job that closed its descriptors, or a worker that has gone: the job continues
  }
}
