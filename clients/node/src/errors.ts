import type { Outcome } from "./outcome.js";

/** The base of all errors of this package. */
export class NaqError extends Error {
  constructor(message: string) {
    super(message);
    this.name = new.target.name;
  }
}

/** A setting, an option or an argument is wrong. The text names it and says what it may be. */
export class ConfigurationError extends NaqError {}

/** NATS cannot be reached, refuses the credentials, or does not answer. */
export class ConnectionError extends NaqError {}

/** A value cannot be held by JSON, or does not match the job's schema. Nothing was enqueued. */
export class SerializationError extends NaqError {
  /** Where the value is, such as `input.sizes[0]`. */
  readonly path: string;

  constructor(path: string, problem: string) {
    super(`${path}: ${problem}`);
    this.path = path;
  }
}

/** There is no such job: it was never enqueued, or its record has expired. */
export class JobNotFoundError extends NaqError {}

/** The id belongs to a job with another envelope, or the job's state does not allow the change. */
export class JobConflictError extends NaqError {}

/** NATS has no room for the job, or the message is larger than the server takes. */
export class StoreFullError extends NaqError {}

/** The job has not ended in time. It is not cancelled. The text says what it waits for. */
export class WaitTimeoutError extends NaqError {}

/** The job wrote more than naq keeps, so what is kept is not the output. */
export class OutputIncompleteError extends NaqError {}

/** The job has ended without success. */
export class JobFailedError extends NaqError {
  /** How it ended: state, reason, exit code, output. */
  readonly outcome: Outcome;
  /** The name of the exception that the job's function threw, or the reason why the job failed. */
  readonly type: string;
  /** What the exception said, or the error of the job's record. */
  readonly reason: string;
  /** The trace of the job's function, or what the job wrote to standard error. */
  readonly trace: string;

  constructor(outcome: Outcome) {
    super(`job ${outcome.jobId} ${outcome.summary}`);
    this.outcome = outcome;
    const exception = outcome.record.exception;
    this.type = exception?.type ?? outcome.record.reason ?? outcome.state;
    this.reason = exception?.message ?? outcome.record.error ?? "";
    this.trace = exception?.trace ?? outcome.stderrPreview;
  }
}

/** The job was cancelled. */
export class JobCancelledError extends JobFailedError {}

/** The job did not start before its `expiresAt`. */
export class JobExpiredError extends JobFailedError {}

/** The worker refused the envelope: it is invalid, or its policy does not allow it. */
export class JobRejectedError extends JobFailedError {}

/** Some jobs of `enqueueMany` were not enqueued; the others were. */
export class BatchFailedError<J> extends NaqError {
  /** For each call its job, or `undefined` if it was not enqueued. */
  readonly jobs: Array<J | undefined>;
  /** The errors, by the position of the call. */
  readonly errors: Map<number, Error>;

  constructor(jobs: Array<J | undefined>, errors: Map<number, Error>) {
    const [position, first] = [...errors][0]!;
    super(`${errors.size} of ${jobs.length} jobs were not enqueued; the first is number ${position}: ${first.message}`);
    this.jobs = jobs;
    this.errors = errors;
  }
}
