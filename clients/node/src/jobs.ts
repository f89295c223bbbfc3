import type { Backend, Request, Status, WaitOptions } from "./backend.js";
import { SerializationError } from "./errors.js";
import type { Envelope, JobRecord } from "./generated.js";
import { envelopeFields, type JobOptions, placement } from "./options.js";
import { isEnded, Outcome } from "./outcome.js";
import { type Schema, validate } from "./standardSchema.js";
import { type Duration, json, milliseconds, newId } from "./values.js";

/** How long to wait. */
export interface Waiting {
  /** Without it, a wait takes until the job ends; a warning says what it waits for if no worker serves its queue. */
  timeout?: Duration;
  /** Ends the wait, not the job. */
  signal?: AbortSignal;
}

/** A change of a job. */
export interface JobEvent {
  /** `scheduled`, `queued`, `waiting`, `running`, `retrying`, or how the job ended. */
  state: JobRecord["state"];
  /** What the job reported last. */
  progress: { percent?: number; message?: string } | undefined;
  /** The number of the attempt. */
  attempt: number;
  /** The record; of a job that no worker has claimed only what is known. */
  record: Status;
}

type Decode<R> = (outcome: Outcome) => R | Promise<R>;

/** A job that was enqueued. The result of a program is its `Outcome`, of a function what it returned. */
export class Job<R> {
  /** The job's id. */
  readonly id: string;
  /** The job's queue, if it is known. */
  readonly queue: string | undefined;
  readonly #backend: Backend;
  readonly #decode: Decode<R>;

  /** @internal */
  constructor(backend: Backend, id: string, queue: string | undefined, decode: Decode<R>) {
    this.id = id;
    this.queue = queue;
    this.#backend = backend;
    this.#decode = decode;
  }

  /**
   * Waits until the job has ended, and returns its result.
   *
   * Throws JobFailedError if it ended without success, WaitTimeoutError after `timeout` (the job continues), and
   * JobNotFoundError if its record has expired.
   */
  async result(waiting: Waiting = {}): Promise<R> {
    return this.#decode((await this.outcome(waiting)).orThrow());
  }

  /** Waits until the job has ended, and returns how, whether it succeeded or not. */
  async outcome(waiting: Waiting = {}): Promise<Outcome> {
    let last: Status | undefined;
    for await (const status of this.#changes(waiting)) last = status;
    const record = last as JobRecord;
    return new Outcome(record, await this.#backend.fetchOutput(record));
  }

  /** The job's changes: its state now, then each change until it has ended. */
  async *events(waiting: Waiting = {}): AsyncGenerator<JobEvent, void, undefined> {
    for await (const record of this.#changes(waiting)) {
      const { percent, message } = record.progress ?? {};
      const progress = record.progress ? { ...(percent != null && { percent }), ...(message != null && { message }) } : undefined;
      yield { state: record.state, progress, attempt: record.attempt ?? 0, record };
    }
  }

  /** The job's record now; of a job that no worker has claimed only its state, queue and time. */
  async status(): Promise<Status> {
    return this.#backend.status(this.id, this.queue);
  }

  /** Whether the job has ended, in any way. */
  async isEnded(): Promise<boolean> {
    return isEnded((await this.status()).state);
  }

  /** Cancels the job: one that runs is stopped with all its processes. False if it had ended. */
  async cancel(): Promise<boolean> {
    return (await this.#backend.cancel(this.id, this.queue)) !== "ended";
  }

  #changes(waiting: Waiting): AsyncGenerator<Status> {
    const options: WaitOptions = {
      ...(waiting.timeout !== undefined && { timeoutMs: milliseconds(waiting.timeout, "timeout") }),
      ...(waiting.signal && { signal: waiting.signal }),
    };
    return this.#backend.changes(this.id, this.queue, options);
  }
}

/** A program or a function with its arguments and options, ready to be enqueued any number of times. */
export class Call<R> {
  readonly #backend: Backend;
  readonly #what: Partial<Envelope>;
  readonly #options: JobOptions;
  readonly #decode: Decode<R>;

  /** @internal */
  constructor(backend: Backend, what: Partial<Envelope>, options: JobOptions, decode: Decode<R>) {
    placement(options);
    envelopeFields(options);
    this.#backend = backend;
    this.#what = what;
    this.#options = options;
    this.#decode = decode;
  }

  /** The same with these options too. */
  with(options: JobOptions): Call<R> {
    return new Call(this.#backend, this.#what, { ...this.#options, ...options }, this.#decode);
  }

  /** The envelope, as it is sent. */
  envelope(): Envelope {
    return { ...this.#what, ...envelopeFields(this.#options) };
  }

  /** Enqueues it, with these options too. Resolves once NATS has stored the job. */
  async enqueue(options: JobOptions = {}): Promise<Job<R>> {
    const request = this.with(options).request(this.#backend.settings.queue);
    await this.#backend.enqueue(request);
    return new Job(this.#backend, request.id, request.queue, this.#decode);
  }

  /** @internal */
  request(defaultQueue: string): Request {
    const { queue, id, ...start } = placement(this.#options);
    return {
      queue: queue ?? defaultQueue,
      id: id ?? newId(),
      isChosen: id !== undefined,
      envelope: this.envelope(),
      ...start,
    };
  }
}

/** A function of a module that workers call, with the types of its input and output. */
export class JobFunction<Input, Output> {
  readonly #backend: Backend;
  readonly #name: string;
  readonly #options: JobOptions;
  readonly #input: Schema<unknown, unknown> | undefined;
  readonly #output: Schema<unknown, Output> | undefined;

  /** @internal */
  constructor(
    backend: Backend,
    name: string,
    options: JobOptions,
    input: Schema<unknown, unknown> | undefined,
    output: Schema<unknown, Output> | undefined,
  ) {
    placement(options);
    envelopeFields(options);
    this.#backend = backend;
    this.#name = name;
    this.#options = options;
    this.#input = input;
    this.#output = output;
  }

  /** The function with its input, for `enqueueMany` and schedules. Throws SerializationError if the input is invalid. */
  async call(input: Input): Promise<Call<Output>> {
    if (this.#input) {
      const checked = await validate(this.#input, input, "input");
      if ("problem" in checked) throw new SerializationError(checked.path, checked.problem);
    }
    // what the producer gave, not what the schema made of it: the worker's schema makes it again
    const args = input === undefined ? {} : { args: [json(input, "input")] };
    const what: Partial<Envelope> = { function: this.#name, runner: "node", ...args };
    return new Call(this.#backend, what, this.#options, (outcome) => this.#decode(outcome));
  }

  /** Enqueues a call with this input. */
  async enqueue(input: Input, options: JobOptions = {}): Promise<Job<Output>> {
    return (await this.call(input)).enqueue(options);
  }

  async #decode(outcome: Outcome): Promise<Output> {
    if (!this.#output) return outcome.result as Output;
    const checked = await validate(this.#output, outcome.result, "result");
    if ("problem" in checked) throw new SerializationError(checked.path, checked.problem);
    return checked.value;
  }
}
