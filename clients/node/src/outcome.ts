import { JobCancelledError, JobExpiredError, JobFailedError, JobRejectedError, OutputIncompleteError } from "./errors.js";
import type { CapturedOutput, JobRecord, Reason, State } from "./generated.js";

const ENDED: ReadonlySet<string> = new Set(["succeeded", "failed", "cancelled", "expired", "rejected"]);

/** Whether a job in this state has ended. */
export const isEnded = (state: string): boolean => ENDED.has(state);

/** What a client adds to a record: output and results that did not fit into it. */
export interface Fetched {
  stdout?: Uint8Array;
  stderr?: Uint8Array;
}

/** How a job ended: a view of its record. */
export class Outcome {
  /** The whole record, as docs/protocol.md describes it. */
  readonly record: JobRecord;
  readonly #fetched: Fetched;

  constructor(record: JobRecord, fetched: Fetched = {}) {
    this.record = record;
    this.#fetched = fetched;
  }

  /** The job's id. */
  get jobId(): string {
    return this.record.job_id;
  }

  /** The job's queue. */
  get queue(): string {
    return this.record.queue;
  }

  /** `succeeded`, `failed`, `cancelled`, `expired` or `rejected`. */
  get state(): State {
    return this.record.state;
  }

  /** Whether the job succeeded. */
  get ok(): boolean {
    return this.state === "succeeded";
  }

  /** Why the job failed or was rejected, as a word: `exit`, `timeout`, `oom`, `invalid` … */
  get reason(): Reason | undefined {
    return this.record.reason ?? undefined;
  }

  /** Why the job failed, in words. */
  get error(): string | undefined {
    return this.record.error ?? undefined;
  }

  /** The exit code of the last attempt. */
  get exitCode(): number | undefined {
    return this.record.exit_code ?? undefined;
  }

  /** The signal that ended the last attempt. */
  get signal(): number | undefined {
    return this.record.signal ?? undefined;
  }

  /** The number of attempts. */
  get attempt(): number {
    return this.record.attempt;
  }

  /** The structured result that the job wrote. */
  get result(): unknown {
    return this.record.result ?? undefined;
  }

  /** What the job wrote to standard output. Throws OutputIncompleteError if naq has not kept all of it. */
  get stdout(): Uint8Array {
    return this.#whole("stdout");
  }

  /** What the job wrote to standard error. Throws OutputIncompleteError if naq has not kept all of it. */
  get stderr(): Uint8Array {
    return this.#whole("stderr");
  }

  /** `stdout` as text. */
  get text(): string {
    return new TextDecoder().decode(this.stdout);
  }

  /** As much of standard output as the record has. */
  get stdoutPreview(): string {
    return preview(this.record.stdout);
  }

  /** As much of standard error as the record has. */
  get stderrPreview(): string {
    return preview(this.record.stderr);
  }

  /** What naq noticed without failing the job. */
  get warnings(): string[] {
    return this.record.warnings ?? [];
  }

  /** State, reason and error in one line. */
  get summary(): string {
    const { reason, state, error } = this;
    let cause: string | undefined = reason;
    if (reason === "exit") cause = `exit ${this.exitCode}`;
    if (reason === "signal") cause = `signal ${this.signal}`;
    const text = cause && cause !== state ? `${state} (${cause})` : state;
    return error ? `${text}: ${error}` : text;
  }

  /** Returns itself, or throws JobFailedError. */
  orThrow(): this {
    switch (this.state) {
      case "succeeded":
        return this;
      case "cancelled":
        throw new JobCancelledError(this);
      case "expired":
        throw new JobExpiredError(this);
      case "rejected":
        throw new JobRejectedError(this);
      default:
        throw new JobFailedError(this);
    }
  }

  #whole(stream: "stdout" | "stderr"): Uint8Array {
    const output = this.record[stream];
    if (output?.truncated) {
      throw new OutputIncompleteError(
        `${output.missing_bytes} of ${output.bytes} bytes that job ${this.jobId} wrote to ${stream} were not kept;` +
          ` enqueue it with limits: { output: "64M" } to keep more, or read \`${stream}Preview\``,
      );
    }
    return this.#fetched[stream] ?? bytes(output);
  }
}

function bytes(output: CapturedOutput | null | undefined): Uint8Array {
  if (output?.base64) return Buffer.from(output.base64, "base64");
  return Buffer.from(output?.text ?? "");
}

function preview(output: CapturedOutput | null | undefined): string {
  const head = new TextDecoder().decode(bytes(output));
  if (!output?.tail) return head;
  const tail = output.base64 ? Buffer.from(output.tail, "base64").toString() : output.tail;
  return `${head}\n[naq: ${output.missing_bytes} bytes missing here]\n${tail}`;
}
