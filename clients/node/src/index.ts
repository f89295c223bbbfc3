/**
 * Enqueue jobs of naq, the job runner on NATS JetStream, and wait for their outcomes.
 *
 * @module
 */
export type { Status } from "./backend.js";
export { current, NotInJobError } from "./current.js";
export {
  BatchFailedError,
  ConfigurationError,
  ConnectionError,
  JobCancelledError,
  JobConflictError,
  JobExpiredError,
  JobFailedError,
  JobNotFoundError,
  JobRejectedError,
  NaqError,
  OutputIncompleteError,
  SerializationError,
  StoreFullError,
  WaitTimeoutError,
} from "./errors.js";
export type * from "./generated.js";
export { Call, Job, type JobEvent, JobFunction, type Waiting } from "./jobs.js";
export { type Argument, Naq } from "./naq.js";
export type { Dependency, JobOptions, Limits } from "./options.js";
export { Outcome } from "./outcome.js";
export { Schedule, type ScheduleOptions } from "./schedules.js";
export type { ConnectOptions } from "./settings.js";
export type { Schema } from "./standardSchema.js";
export type { Duration } from "./values.js";
