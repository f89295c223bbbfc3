import { type Backend, NatsBackend } from "./backend.js";
import { Connection } from "./connection.js";
import { BatchFailedError, ConfigurationError } from "./errors.js";
import type { Envelope, WorkerInfo } from "./generated.js";
import { JobSocketBackend } from "./jobSocket.js";
import { Call, Job, JobFunction } from "./jobs.js";
import { type JobOptions, text } from "./options.js";
import type { Outcome } from "./outcome.js";
import { definition, Schedule, type ScheduleOptions } from "./schedules.js";
import { type ConnectOptions, load } from "./settings.js";
import type { InputOf, OutputOf, Schema } from "./standardSchema.js";
import { json, newId, scheduleName, shown } from "./values.js";

/** How many jobs of `enqueueMany` are on their way at once. */
const IN_FLIGHT_MAX = 256;

/** An argument of a program. */
export type Argument = string | number | boolean;

/**
 * A connection to naq.
 *
 *     await using naq = await Naq.connect();
 *     const job = await naq.command("./report.sh", ["--all"], { timeout: "5m" }).enqueue();
 *     console.log((await job.result({ timeout: "10m" })).text);
 *
 * It reconnects by itself. An open connection keeps the process alive: `await using`, or `close()`, ends it.
 */
export class Naq implements AsyncDisposable {
  readonly #backend: Backend;

  private constructor(backend: Backend) {
    this.#backend = backend;
  }

  /**
   * Connects. Without options it does so as the program `naq`: by `NAQ_*` variables, by `naq.toml`, to the server of
   * `naq dev`, or inside a job through the job's worker.
   */
  static async connect(options: ConnectOptions = {}): Promise<Naq> {
    const settings = load(options);
    if (settings.jobSocket) return new Naq(new JobSocketBackend(settings, settings.jobSocket));
    return new Naq(new NatsBackend(await Connection.open(settings)));
  }

  /** Any program as a job: a path, relative to `cwd` on the worker, or a name that the worker looks up in its PATH. */
  command(program: string, args: readonly Argument[] = [], options: JobOptions = {}): Call<Outcome> {
    return this.#program({ command: text(program, "command") }, args, options);
  }

  /** A script's source as a job. Its `#!` line names the interpreter; without one it is `sh`. */
  script(source: string, args: readonly Argument[] = [], options: JobOptions = {}): Call<Outcome> {
    return this.#program({ script: text(source, "script") }, args, options);
  }

  #program(what: Partial<Envelope>, args: readonly Argument[], options: JobOptions): Call<Outcome> {
    if (!Array.isArray(args)) throw new ConfigurationError(`the arguments ${shown(args)} are not an array`);
    args.forEach(checkArgument);
    return new Call(this.#backend, args.length > 0 ? { ...what, args: [...args] } : what, options, (outcome) => outcome);
  }

  /**
   * A function that workers call: `naq.job("./jobs/resize.js:default", { input: z.object({ … }), retries: 3 })`.
   *
   * The schemas `input` and `output` are of any library that implements Standard Schema. The input is checked when a
   * job is enqueued, the output when a result is read, and both give the types. A worker imports
   * the file from its working directory, or from the job's (`cwd`).
   */
  job<In extends Schema | undefined = undefined, Out extends Schema | undefined = undefined>(
    name: string,
    options: Omit<JobOptions, "input"> & { input?: In; output?: Out } = {},
  ): JobFunction<In extends Schema ? InputOf<In> : unknown, Out extends Schema ? OutputOf<Out> : unknown> {
    if (!/^[^\0:]+:[^\0:]+$/.test(name.replace(/^file:/, ""))) {
      throw new ConfigurationError(`${shown(name)} does not name a function; write './module.js:name'`);
    }
    const { input, output, ...rest } = options;
    return new JobFunction(this.#backend, name, rest as JobOptions, input as never, output as never);
  }

  /**
   * Enqueues many jobs at once. All are checked before the first is sent.
   *
   * Throws BatchFailedError if some were not enqueued; it has the jobs that were, and the errors of the others.
   */
  async enqueueMany<R>(calls: Iterable<Call<R>>): Promise<Array<Job<R>>> {
    const all = [...calls];
    for (const call of all) call.envelope();
    const jobs: Array<Job<R> | undefined> = all.map(() => undefined);
    const errors = new Map<number, Error>();
    let next = 0;
    const enqueueNext = async (): Promise<void> => {
      for (let index = next++; index < all.length; index = next++) {
        try {
          jobs[index] = await all[index]!.enqueue();
        } catch (error) {
          errors.set(index, error as Error);
        }
      }
    };
    await Promise.all(Array.from({ length: Math.min(IN_FLIGHT_MAX, all.length) }, enqueueNext));
    if (errors.size > 0) throw new BatchFailedError(jobs, errors);
    return jobs as Array<Job<R>>;
  }

  /** A job by its id, such as one that another program has enqueued. Reads nothing yet. */
  fetch(id: string): Job<Outcome> {
    if (typeof id !== "string") throw new ConfigurationError(`${shown(id)} is not the id of a job`);
    return new Job(this.#backend, id, undefined, (outcome) => outcome);
  }

  /** The heartbeat of each worker that runs: name, queues, state, jobs. */
  async workers(): Promise<WorkerInfo[]> {
    return this.#backend.workers();
  }

  /** Stores a schedule, which enqueues the call again and again. `naq scheduler` or `naq dev` has to run. */
  async schedule(
    call: Call<unknown>,
    options: ScheduleOptions & { name?: string; /** Replace a schedule of this name. */ replace?: boolean },
  ): Promise<Schedule> {
    const { name, replace, ...when } = options;
    const checked = scheduleName(name ?? newId());
    // before the first request, so that a mistake shows at once
    definition(checked, call, this.#backend.settings.queue, when, new Date());
    const now = await this.#backend.now();
    await this.#backend.putSchedule(definition(checked, call, this.#backend.settings.queue, when, now), replace ?? false);
    return new Schedule(this.#backend, checked);
  }

  /** A schedule by its name. Reads nothing yet. */
  fetchSchedule(name: string): Schedule {
    return new Schedule(this.#backend, scheduleName(name));
  }

  /** Closes the connection. */
  async close(): Promise<void> {
    await this.#backend.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function checkArgument(value: unknown, index: number): void {
  if (!["string", "number", "boolean"].includes(typeof value)) {
    throw new ConfigurationError(
      `args[${index}]: an argument of a program is a text, a number or a boolean, not ${shown(value)};` +
        " pass other values as `input`, which the program reads as JSON from its standard input",
    );
  }
  if (typeof value === "string" && value.includes("\0")) {
    throw new ConfigurationError(`args[${index}]: the text has a NUL, which no process can receive`);
  }
  json(value, `args[${index}]`);
}
