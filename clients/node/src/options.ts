import { ConfigurationError } from "./errors.js";
import type { Envelope, UploadedFile } from "./generated.js";
import type { Job } from "./jobs.js";
import { type Duration, duration, jobId, json, milliseconds, moment, queueName, shown } from "./values.js";

/** A job that must end first, and how. */
export interface Dependency {
  job: string | Job<unknown>;
  on?: "success" | "failure" | "finished";
  /** The name of the folder in `NAQ_INPUTS` in which the job gets the output of this one. */
  as?: string;
}

/** Limits on the resources of a job's processes. Sizes are bytes or texts such as `"256M"`. */
export interface Limits {
  memory?: number | string;
  addressSpace?: number | string;
  fileSize?: number | string;
  output?: number | string;
  cpuTime?: Duration;
  cpus?: number;
  processes?: number;
  openFiles?: number;
  nice?: number;
}

/** Options of a job. docs/protocol.md of naq describes each; an absent one is the worker's default. */
export interface JobOptions {
  /** The queue; by default the client's. */
  queue?: string;
  /** The id. naq runs an id once. */
  id?: string;
  /** How long to wait before the start. */
  delay?: Duration;
  /** When to start. */
  at?: Date;
  /** Attempts after the first. */
  retries?: number;
  retryDelay?: Duration | Duration[];
  retryStrategy?: "fixed" | "linear" | "exponential";
  retryMaxDelay?: Duration;
  retryJitter?: boolean;
  retryOn?: number[];
  fatalOn?: number[];
  successOn?: number[];
  /** The limit of one attempt: its processes are stopped. */
  timeout?: Duration;
  /** The job does not start after this time. */
  expiresAt?: Date;
  resultTtl?: Duration;
  dependsOn?: string | Job<unknown> | Dependency | Array<string | Job<unknown> | Dependency>;
  /** Which outputs of these jobs the job gets: those with a name (`as`), all, or all as lines on standard input. */
  inputs?: "named" | "all" | "stdin";
  dependencyTimeout?: Duration;
  concurrencyKey?: string;
  concurrencyMax?: number;
  requires?: { [label: string]: string };
  labels?: { [label: string]: string };
  meta?: unknown;
  env?: { [name: string]: string };
  secrets?: string[];
  cwd?: string;
  /** Files that were uploaded (`naq enqueue --upload`), for the job's work folder. */
  files?: UploadedFile[];
  /** Patterns of the files in the work folder that are kept after the job. */
  artifacts?: string[];
  limits?: Limits;
  /** Any JSON, passed to the program on standard input. */
  input?: unknown;
  /** Text or bytes, passed to the program on standard input. */
  stdin?: string | Uint8Array;
  runner?: string;
  /** Folders in which the function's runner looks for modules first. */
  modulePath?: string[];
  overlapOk?: boolean;
  mustUnderstand?: string[];
}

/** Where and when a job is enqueued: the options that are no part of the envelope. */
export interface Placement {
  queue?: string;
  id?: string;
  at?: Date;
  delayMs?: number;
}

type Setter = (value: never, name: string) => Partial<Envelope>;

/** Sets one field, after a check. */
const field =
  <V>(name: keyof Envelope, checked: (value: V, name: string) => unknown): Setter =>
  (value: never, option) =>
    ({ [name]: checked(value as V, option) }) as Partial<Envelope>;

const codes = (value: number[], name: string): number[] => {
  for (const code of list(value, name)) {
    if (!Number.isInteger(code) || code < 0 || code > 255) {
      throw new ConfigurationError(`${name}: ${shown(code)} is not an exit code from 0 to 255`);
    }
  }
  return value;
};

const texts = (value: { [name: string]: string }, name: string): { [name: string]: string } => {
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== "string") throw new ConfigurationError(`${name}.${key}: ${shown(text)} is not a text`);
    if (name === "env" && (!key || key.includes("=") || key.startsWith("NAQ_") || (key + text).includes("\0"))) {
      throw new ConfigurationError(`env.${key}: a name has no '=', no NUL, and does not begin with NAQ_`);
    }
  }
  return json(value, name);
};

const count =
  (least: number, most: number) =>
  (value: number, name: string): number => {
    if (!Number.isInteger(value) || value < least || value > most) {
      throw new ConfigurationError(`${name}: ${shown(value)} is not a whole number from ${least} to ${most}`);
    }
    return value;
  };

const boolean = (value: boolean, name: string): boolean => {
  if (typeof value !== "boolean") throw new ConfigurationError(`${name}: ${shown(value)} is not true or false`);
  return value;
};

/** A text that a process can receive. */
export const text = (value: string, name: string): string => {
  if (typeof value !== "string" || value === "") throw new ConfigurationError(`${name}: ${shown(value)} is not a text`);
  if (value.includes("\0")) throw new ConfigurationError(`${name}: the text has a NUL, which no process can receive`);
  return json(value, name);
};

function list<T>(value: T[], name: string): T[] {
  if (!Array.isArray(value)) throw new ConfigurationError(`${name}: ${shown(value)} is not an array`);
  return value;
}

const textList = (value: string[], name: string): string[] => list(value, name).map((one) => text(one, name));

const fileList = (value: UploadedFile[], name: string): UploadedFile[] => list(value, name).map((one) => json(one, name));

const strategy = (value: string, name: string): string => {
  if (!["fixed", "linear", "exponential"].includes(value)) {
    throw new ConfigurationError(`${name}: ${shown(value)} is not fixed, linear or exponential`);
  }
  return value;
};

const delays = (value: Duration | Duration[], name: string): string | string[] =>
  Array.isArray(value) ? value.map((one) => duration(one, name)) : duration(value, name);

const dependencies = (value: NonNullable<JobOptions["dependsOn"]>, name: string): Envelope["depends_on"] =>
  (Array.isArray(value) ? value : [value]).map((one) => {
    if (typeof one === "object" && "job" in one) {
      const on = one.on ?? "success";
      if (!["success", "failure", "finished"].includes(on)) {
        throw new ConfigurationError(`${name}: ${shown(on)} is not success, failure or finished`);
      }
      if (one.as !== undefined && !/^[A-Za-z0-9_-]{1,64}$/.test(one.as)) {
        throw new ConfigurationError(`${name}: ${shown(one.as)} is not a name of 1 to 64 of A-Z a-z 0-9 _ -`);
      }
      return { job: dependency(one.job, name), on, ...(one.as !== undefined && { as: one.as }) };
    }
    return dependency(one, name);
  });

const inputs = (value: string, name: string): string => {
  if (!["named", "all", "stdin"].includes(value)) {
    throw new ConfigurationError(`${name}: ${shown(value)} is not named, all or stdin`);
  }
  return value;
};

function dependency(value: string | Job<unknown>, name: string): string {
  const id = typeof value === "object" ? value?.id : value;
  if (typeof id !== "string" || !/^[A-Za-z0-9_-]{1,89}$/.test(id)) {
    throw new ConfigurationError(`${name}: ${shown(id)} is not a job or the id of one`);
  }
  return id;
}

const LIMITS: { [name in keyof Limits]-?: string } = {
  memory: "memory",
  addressSpace: "address_space",
  fileSize: "file_size",
  output: "output",
  cpuTime: "cpu_time",
  cpus: "cpus",
  processes: "processes",
  openFiles: "open_files",
  nice: "nice",
};

const limits = (value: Limits): { [name: string]: unknown } =>
  Object.fromEntries(
    Object.entries(value).map(([limit, size]) => {
      const wire = LIMITS[limit as keyof Limits];
      if (!wire) throw new ConfigurationError(`limits.${limit}: unknown; the limits are ${Object.keys(LIMITS).join(", ")}`);
      return [wire, limit === "cpuTime" ? duration(size, "limits.cpuTime") : json(size, `limits.${limit}`)];
    }),
  );

const stdin: Setter = (value: string | Uint8Array, name: string) =>
  typeof value === "string" ? { stdin: json(value, name) } : { stdin_base64: Buffer.from(value).toString("base64") };

const SETTERS: { [option in Exclude<keyof JobOptions, "queue" | "id" | "at" | "delay">]-?: Setter } = {
  retries: field("max_retries", count(0, 10_000)),
  retryDelay: field("retry_delay", delays),
  retryStrategy: field("retry_strategy", strategy),
  retryMaxDelay: field("retry_max_delay", duration),
  retryJitter: field("retry_jitter", boolean),
  retryOn: field("retry_on", codes),
  fatalOn: field("fatal_on", codes),
  successOn: field("success_on", codes),
  timeout: field("timeout", duration),
  expiresAt: field("expires_at", moment),
  resultTtl: field("result_ttl", duration),
  dependsOn: field("depends_on", dependencies),
  inputs: field("inputs", inputs),
  dependencyTimeout: field("dependency_timeout", duration),
  concurrencyKey: field("concurrency_key", text),
  concurrencyMax: field("concurrency_max", count(1, 2 ** 32 - 1)),
  requires: field("requires", texts),
  labels: field("labels", texts),
  meta: field("meta", json),
  env: field("env", texts),
  secrets: field("secrets", textList),
  cwd: field("cwd", text),
  files: field("files", fileList),
  artifacts: field("artifacts", textList),
  limits: field("limits", limits),
  input: field("input", json),
  stdin: stdin as Setter,
  runner: field("runner", text),
  modulePath: field("module_path", textList),
  overlapOk: field("overlap_ok", boolean),
  mustUnderstand: field("must_understand", textList),
};

const PLACEMENT = ["queue", "id", "at", "delay"];

/** Where and when to enqueue. */
export function placement(options: JobOptions): Placement {
  const { queue, id, at, delay } = options;
  if (at !== undefined && delay !== undefined) throw new ConfigurationError("give `at` or `delay`, not both");
  return {
    ...(queue !== undefined && { queue: queueName(queue) }),
    ...(id !== undefined && { id: jobId(id) }),
    ...(at !== undefined && { at: new Date(moment(at, "at")) }),
    ...(delay !== undefined && { delayMs: milliseconds(delay, "delay") }),
  };
}

/** The envelope's fields that the options set. */
export function envelopeFields(options: JobOptions): Partial<Envelope> {
  const fields: Partial<Envelope> = {};
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || PLACEMENT.includes(name)) continue;
    const set = SETTERS[name as keyof typeof SETTERS];
    if (!set) {
      const known = [...PLACEMENT, ...Object.keys(SETTERS)].sort().join(", ");
      throw new ConfigurationError(`unknown option \`${name}\`; the options are ${known}`);
    }
    Object.assign(fields, set(value as never, name));
  }
  const inputs = (["input", "stdin", "stdin_base64"] as const).filter((name) => name in fields);
  if (inputs.length > 1) throw new ConfigurationError("give one of `input` and `stdin`");
  return fields;
}
