// What a client does with jobs, over NATS.
import { createHash } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import {
  type Acknowledgement,
  ApiError,
  type Connection,
  MESSAGE_NOT_FOUND,
  NoAnswer,
  NoResponders,
  type StoredMessage,
  STREAM_NOT_FOUND,
  WRONG_LAST_SEQUENCE,
} from "./connection.js";
import { ConnectionError, JobConflictError, JobNotFoundError, NaqError, WaitTimeoutError } from "./errors.js";
import type { Envelope, JobRecord, ScheduleRecord, State, WorkerInfo } from "./generated.js";
import { queueStream, resultsBucket, schedulesBucket, workerConsumer } from "./layout.js";
import { type Fetched, isEnded } from "./outcome.js";
import type { Settings } from "./settings.js";
import { milliseconds } from "./values.js";

/** After this time a wait says what it waits for. */
const REMARK_AFTER_MS = 2_000;
const ATTEMPTS_MAX = 20;
const RESULT_TTL_MS = 7 * 86_400_000;
const TTL_MIN_S = 600;

/** A job to enqueue. */
export interface Request {
  queue: string;
  id: string;
  /** Whether the user chose the id: only then can it have been used before. */
  isChosen: boolean;
  envelope: Envelope;
  at?: Date;
  delayMs?: number;
}

/** How long a wait takes at most, and what ends it earlier. */
export interface WaitOptions {
  timeoutMs?: number;
  signal?: AbortSignal;
}

/** A record, or of a job that no worker has claimed what its message says. */
export type Status = Partial<JobRecord> & Pick<JobRecord, "job_id" | "queue" | "state">;

/** What a client needs of its transport. */
export interface Backend {
  readonly settings: Settings;
  close(): Promise<void>;
  enqueue(request: Request): Promise<void>;
  status(id: string, queue?: string): Promise<Status>;
  /** The job's changes from now on, the present state first. Ends with the job. */
  changes(id: string, queue: string | undefined, options: WaitOptions): AsyncGenerator<Status>;
  fetchOutput(record: JobRecord): Promise<Fetched>;
  cancel(id: string, queue?: string): Promise<"cancelled" | "requested" | "ended">;
  workers(): Promise<WorkerInfo[]>;
  schedule(name: string): Promise<ScheduleRecord | undefined>;
  putSchedule(schedule: ScheduleRecord, replace: boolean): Promise<void>;
  changeSchedule(name: string, changes: { [field: string]: unknown }): Promise<boolean>;
  deleteSchedule(name: string): Promise<boolean>;
  now(): Promise<Date>;
}

/** Jobs, records and schedules on a NATS server. */
export class NatsBackend implements Backend {
  readonly settings: Settings;
  readonly #connection: Connection;
  readonly #prefix: string;

  constructor(connection: Connection) {
    this.#connection = connection;
    this.settings = connection.settings;
    this.#prefix = connection.settings.prefix;
  }

  async close(): Promise<void> {
    await this.#connection.close();
  }

  async enqueue(request: Request): Promise<void> {
    const due = await this.#due(request);
    if (request.isChosen && (await this.#isSameAsExisting(request, due))) return;
    const target = this.#jobSubject(request.queue, request.id);
    const headers: { [name: string]: string } = { "Nats-Msg-Id": request.id };
    let subject = target;
    if (due) {
      subject = this.#delayedSubject(request.queue, request.id);
      headers["Nats-Schedule"] = `@at ${due.toISOString()}`;
      headers["Nats-Schedule-Target"] = target;
      headers["Naq-Scheduled-For"] = due.toISOString();
      headers["Nats-Expected-Last-Subject-Sequence"] = "0";
    }
    const stored = await this.#store(request, subject, headers);
    if (stored.duplicate && request.isChosen && !(await this.#isSameAsExisting(request, due))) {
      throw new JobConflictError(`the job id '${request.id}' was used within the last two minutes and its job was removed`);
    }
  }

  async #store(request: Request, subject: string, headers: { [name: string]: string }): Promise<Acknowledgement> {
    for (let left = 3; ; left--) {
      try {
        return await this.#connection.publish(subject, payload(request), headers);
      } catch (error) {
        if (error instanceof NoResponders && left > 1) await this.#createQueue(request.queue);
        // the first of two attempts has arrived, or another producer was faster
        else if (isWrongSequence(error)) return { seq: 0, duplicate: true };
        // the same message id makes a second attempt safe
        else if (!(error instanceof NoAnswer) || left <= 1) throw error;
      }
    }
  }

  async #createQueue(queue: string): Promise<void> {
    const layout = queueStream(this.#prefix, queue);
    const { value } = await this.#connection.value<number>(`${this.#prefix}_removed_queues`, queue);
    // ids may be made of the sequence, and must not repeat those of earlier jobs
    if (typeof value === "number") layout["first_seq"] = value;
    await this.#connection.createStream(layout);
    // `naq run` creates a consumer for each job of its queue
    if (queue !== "run") await this.#connection.createConsumer(layout.name, workerConsumer(this.#prefix, queue));
  }

  async #due(request: Request): Promise<Date | undefined> {
    if (!request.at && !request.delayMs) return undefined;
    const now = await this.now();
    const due = request.at ?? new Date(now.getTime() + request.delayMs!);
    return due > now ? due : undefined;
  }

  /** The server's time. */
  async now(): Promise<Date> {
    try {
      const { ts } = await this.#connection.api<{ ts: string }>(`STREAM.INFO.KV_${this.#prefix}_scheduler_lock`);
      return new Date(ts);
    } catch (error) {
      if (error instanceof ApiError || error instanceof ConnectionError) return new Date();
      throw error;
    }
  }

  /** Whether the job exists already, with the same envelope. Throws if it exists with another one. */
  async #isSameAsExisting(request: Request, due: Date | undefined): Promise<boolean> {
    const stream = this.#stream(request.queue);
    const { record } = await this.#record(request.id);
    if (record) {
      const digest = createHash("sha256").update(payload(request)).digest("hex").slice(0, 16);
      const same = record.envelope_digest === digest || isSame(record.envelope, request.envelope);
      return conflictUnless(same && record.queue === request.queue, request.id);
    }
    const delayed = await this.#connection.message(stream, { last_by_subj: this.#delayedSubject(request.queue, request.id) });
    const message =
      delayed ?? (await this.#connection.message(stream, { last_by_subj: this.#jobSubject(request.queue, request.id) }));
    if (!message) return false;
    const isSameTime = !request.at || !delayed || !due || delayed.headers["Naq-Scheduled-For"] === due.toISOString();
    return conflictUnless(isSame(parsed(message.data), request.envelope) && isSameTime, request.id);
  }

  async #record(id: string): Promise<{ record: JobRecord | undefined; revision: number; hasDependents: boolean }> {
    const { value, revision } = await this.#connection.value<JobRecord>(`${this.#prefix}_results`, id);
    const record = value?.placeholder ? undefined : value;
    return { record, revision, hasDependents: value?.has_dependents ?? false };
  }

  async status(id: string, queue?: string): Promise<Status> {
    // twice: a worker may claim and end the job between the two reads
    for (let attempt = 0; attempt < 2; attempt++) {
      const { record } = await this.#record(id);
      if (record) return record;
      const found = await this.#findMessage(id, queue);
      if (found) {
        const { message } = found;
        const state: State = message.subject.startsWith(`${this.#prefix}.delayed.`) ? "scheduled" : "queued";
        const scheduled = message.headers["Naq-Scheduled-For"];
        return {
          job_id: id,
          queue: found.queue,
          state,
          attempt: 0,
          enqueue_time: message.time,
          ...(scheduled !== undefined && { scheduled_for: scheduled }),
        };
      }
    }
    throw new JobNotFoundError(`there is no job '${id}'; its record may have expired`);
  }

  async *changes(id: string, queue: string | undefined, options: WaitOptions): AsyncGenerator<Status> {
    const { timeoutMs, signal } = options;
    const until = timeoutMs === undefined ? Infinity : performance.now() + timeoutMs;
    const events = new Events();
    // The server reads the subscription before the requests that follow on the same connection, so what a read of
    // the record misses comes as an event.
    const subscription = this.#connection.subscribe(`${this.#prefix}.event.${id}`, (message) => events.put(message.data));
    const onReconnect = () => events.put("reconnected");
    const onAbort = () => events.put("aborted");
    this.#connection.reconnected.add(onReconnect);
    signal?.addEventListener("abort", onAbort);
    try {
      signal?.throwIfAborted();
      let current = await this.#statusAfterOutage(events, id, queue, until, signal);
      yield current;
      let remarkAt = performance.now() + REMARK_AFTER_MS;
      while (!isEnded(current.state)) {
        const now = performance.now();
        if (now >= until) {
          throw new WaitTimeoutError(`job ${id} has not ended after ${timeoutMs! / 1000} s: ${await this.#why(current)}`);
        }
        if (now >= remarkAt) {
          remarkAt = Infinity;
          await this.#remark(current);
        }
        const event = await events.next(Math.min(until, remarkAt) - now);
        signal?.throwIfAborted();
        if (event === undefined || event === "aborted") continue;
        if (event !== "reconnected" && event.length === 0) {
          throw new JobNotFoundError(`the record of job '${id}' was removed or has expired`);
        }
        const changed =
          event === "reconnected"
            ? await this.#statusAfterOutage(events, id, queue, until, signal)
            : (JSON.parse(Buffer.from(event).toString()) as JobRecord);
        if ("placeholder" in changed && changed.placeholder) continue;
        current = changed;
        yield current;
      }
    } finally {
      subscription.stop();
      this.#connection.reconnected.delete(onReconnect);
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** A job's record, as soon as NATS answers. */
  async #statusAfterOutage(events: Events, id: string, queue: string | undefined, until: number, signal?: AbortSignal): Promise<Status> {
    for (let isFirst = true; ; isFirst = false) {
      try {
        return await this.status(id, queue);
      } catch (error) {
        if (!(error instanceof ConnectionError) || performance.now() >= until) throw error;
        if (isFirst) warn(`waiting for job ${id}: ${error.message}`);
        await events.next(Math.min(1_000, until - performance.now()));
        signal?.throwIfAborted();
      }
    }
  }

  async fetchOutput(record: JobRecord): Promise<Fetched> {
    const bucket = `${this.#prefix}_files`;
    const fetched: Fetched = {};
    for (const stream of ["stdout", "stderr"] as const) {
      const output = record[stream];
      if (output?.object && !output.truncated) fetched[stream] = await this.#connection.object(bucket, output.object);
    }
    if (record.result_object && record.result === undefined) {
      record.result = JSON.parse(Buffer.from(await this.#connection.object(bucket, record.result_object)).toString());
    }
    return fetched;
  }

  /** Says what a job waits for, if that may never come. */
  async #remark(status: Status): Promise<void> {
    if (status.state !== "queued" || (await this.#serving(status.queue)).length > 0) return;
    warn(`waiting for job ${status.job_id}: ${await this.#why(status)}`);
  }

  async #why(status: Status): Promise<string> {
    const { queue, state } = status;
    switch (state) {
      case "running":
        return `it runs on worker ${status.worker_id} since ${status.started_at}`;
      case "scheduled":
        return `it starts at ${status.scheduled_for ?? "a later time"}`;
      case "retrying":
        return `its last attempt failed (${status.reason}), and it is retried at ${status.next_attempt_at}`;
      case "waiting": {
        const others = (status.waits?.dependencies ?? []).map((one) => (typeof one === "string" ? one : one.job));
        return others.length > 0 ? `it waits for ${others.join(", ")}` : `it waits for a slot of '${status.waits?.concurrency_key}'`;
      }
    }
    try {
      if ((await this.#serving(queue)).length === 0) {
        return `no worker serves queue \`${queue}\`; start one with \`naq worker ${queue}\``;
      }
      if (await this.#isPaused(queue)) return `queue \`${queue}\` is paused; \`naq queue resume ${queue}\` resumes it`;
    } catch (error) {
      if (!(error instanceof NaqError)) throw error;
    }
    return `it is ${state} in queue \`${queue}\`, whose workers are busy or lack a label that it requires`;
  }

  async #serving(queue: string): Promise<WorkerInfo[]> {
    return (await this.workers()).filter((worker) => worker.queues.includes(queue));
  }

  async #isPaused(queue: string): Promise<boolean> {
    try {
      const consumer = `${this.#stream(queue)}.${this.#prefix}-worker`;
      return Boolean((await this.#connection.api<{ paused?: boolean }>(`CONSUMER.INFO.${consumer}`)).paused);
    } catch (error) {
      if (error instanceof ApiError) return false;
      throw error;
    }
  }

  async workers(): Promise<WorkerInfo[]> {
    const bucket = `${this.#prefix}_workers`;
    const found: WorkerInfo[] = [];
    for (const subject of await this.#connection.subjects(`KV_${bucket}`, `$KV.${bucket}.*`)) {
      const { value } = await this.#connection.value<WorkerInfo>(bucket, subject.slice(subject.lastIndexOf(".") + 1));
      if (value) found.push(value);
    }
    return found;
  }

  async #findMessage(id: string, queue?: string): Promise<{ queue: string; message: StoredMessage } | undefined> {
    for (const name of queue ? [queue] : await this.#queues()) {
      const stream = this.#stream(name);
      for (const subject of [this.#jobSubject(name, id), this.#delayedSubject(name, id)]) {
        const message = await this.#connection.message(stream, { last_by_subj: subject });
        if (message) return { queue: name, message };
      }
      const routed = await this.#connection.message(stream, { seq: 1, next_by_subj: `${this.#prefix}.route.${name}.*.${id}` });
      if (routed) return { queue: name, message: routed };
    }
    return undefined;
  }

  async #queues(): Promise<string[]> {
    const start = `${this.#prefix}_queue_`;
    const names: string[] = [];
    for (let offset = 0; ; ) {
      const page = await this.#connection.api<{ streams?: string[]; total: number }>("STREAM.NAMES", { offset });
      const streams = page.streams ?? [];
      names.push(...streams.filter((stream) => stream.startsWith(start)).map((stream) => stream.slice(start.length)));
      offset += streams.length;
      if (streams.length === 0 || offset >= page.total) return names;
    }
  }

  async cancel(id: string, queue?: string): Promise<"cancelled" | "requested" | "ended"> {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const done = await this.#tryCancel(id, queue);
      if (done) return done;
    }
    throw new JobConflictError(`job ${id} changed ${ATTEMPTS_MAX} times while it was to be cancelled; try again`);
  }

  /** Decides by the record and writes once. `undefined` if the job changed meanwhile. */
  async #tryCancel(id: string, queue?: string): Promise<"cancelled" | "requested" | "ended" | undefined> {
    const { record, revision, hasDependents } = await this.#record(id);
    if (record && isEnded(record.state)) return "ended";
    if (record?.state === "running") return this.#requestCancel(record, revision);
    const found = await this.#findMessage(id, record?.queue ?? queue);
    if (record?.state === "retrying" && !found) return this.#requestCancel(record, revision);
    const envelope = found ? parsed(found.message.data) : record?.envelope;
    const name = record?.queue ?? found?.queue;
    if (!envelope || !name) {
      if ((await this.#record(id)).revision !== revision) return undefined;
      throw new JobNotFoundError(`there is no job '${id}'; its record may have expired`);
    }
    // Other jobs or the index of blocked jobs may refer to it. A worker that receives a message of a job that has
    // ended releases them, so it gets one, before the record says so.
    const needsWorker = hasDependents || record?.state === "waiting";
    if (needsWorker) await this.#connection.publish(this.#jobSubject(name, id), JSON.stringify(envelope), {});
    const ended = cancelled(record, { job_id: id, queue: name }, envelope as Envelope, found?.message, hasDependents);
    if (!(await this.#write(`${this.#prefix}_results`, id, ended, revision, resultTtlMs(envelope as Envelope)))) return undefined;
    if (found && (!needsWorker || found.message.subject.startsWith(`${this.#prefix}.delayed.`))) {
      await this.#remove(this.#stream(name), found.message.sequence);
    }
    return "cancelled";
  }

  /** Writes the request first: the worker finds it there even if the notification is lost. */
  async #requestCancel(record: JobRecord, revision: number): Promise<"requested" | undefined> {
    record.cancel_requested = true;
    if (!(await this.#write(`${this.#prefix}_results`, record.job_id, record, revision))) return undefined;
    const worker = record.lease?.worker_id;
    if (worker) {
      const asked = this.#connection.request(`${this.#prefix}.control.worker.${worker}`, JSON.stringify({ cancel: record.job_id }));
      // a worker that does not answer reads the record when it renews its lease
      await asked.catch((error: unknown) => {
        if (!(error instanceof NaqError)) throw error;
      });
    }
    return "requested";
  }

  async schedule(name: string): Promise<ScheduleRecord | undefined> {
    return (await this.#connection.value<ScheduleRecord>(`${this.#prefix}_scheduled_jobs`, name)).value;
  }

  async putSchedule(schedule: ScheduleRecord, replace: boolean): Promise<void> {
    const name = schedule.schedule_id;
    await this.#changeStored(name, (stored) => {
      if (stored && !replace) {
        throw new JobConflictError(`there is a schedule '${name}' already; pass \`replace: true\` to replace it`);
      }
      return schedule;
    });
  }

  async changeSchedule(name: string, changes: { [field: string]: unknown }): Promise<boolean> {
    return this.#changeStored(name, (stored) => {
      if (!stored) return undefined;
      const changed = Object.entries({ ...stored, ...changes }).filter(([, value]) => value !== null && value !== undefined);
      return Object.fromEntries(changed) as ScheduleRecord;
    });
  }

  async deleteSchedule(name: string): Promise<boolean> {
    return this.#changeStored(name, (stored) => stored && "removed");
  }

  /** Changes a schedule by compare-and-set. Returns whether there was something to change. */
  async #changeStored(
    name: string,
    change: (stored: ScheduleRecord | undefined) => ScheduleRecord | "removed" | undefined,
  ): Promise<boolean> {
    const bucket = `${this.#prefix}_scheduled_jobs`;
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      const { value, revision } = await this.#connection.value<ScheduleRecord>(bucket, name);
      const changed = change(value);
      if (changed === undefined) return false;
      if (await this.#write(bucket, name, changed, revision)) return true;
    }
    throw new JobConflictError(`schedule ${name} changed ${ATTEMPTS_MAX} times meanwhile; try again`);
  }

  /** Writes a value if it is still at this revision. Creates the bucket if it does not exist. */
  async #write(bucket: string, key: string, value: unknown, revision: number, ttlMs?: number): Promise<boolean> {
    const headers: { [name: string]: string } = { "Nats-Expected-Last-Subject-Sequence": String(revision) };
    if (ttlMs) headers["Nats-TTL"] = `${Math.max(TTL_MIN_S, Math.floor(ttlMs / 1000))}s`;
    if (value === "removed") Object.assign(headers, { "KV-Operation": "DEL", "Nats-TTL": `${TTL_MIN_S}s` });
    const data = value === "removed" ? "" : JSON.stringify(value);
    for (let attempt = 0; ; attempt++) {
      try {
        await this.#connection.publish(`$KV.${bucket}.${key}`, data, headers);
        return true;
      } catch (error) {
        if (isWrongSequence(error)) return false;
        if (!(error instanceof NoResponders) || attempt > 0) throw error;
        await this.#connection.createStream((bucket.endsWith("_results") ? resultsBucket : schedulesBucket)(this.#prefix));
      }
    }
  }

  async #remove(stream: string, sequence: number): Promise<void> {
    try {
      await this.#connection.api(`STREAM.MSG.DELETE.${stream}`, { seq: sequence });
    } catch (error) {
      // a worker has received it meanwhile, found the record, and acknowledged it
      if (!(error instanceof ApiError && [STREAM_NOT_FOUND, MESSAGE_NOT_FOUND, 10043, 10057].includes(error.code))) throw error;
    }
  }

  #stream(queue: string): string {
    return `${this.#prefix}_queue_${queue}`;
  }

  #jobSubject(queue: string, id: string): string {
    return `${this.#prefix}.queue.${queue}.${id}`;
  }

  #delayedSubject(queue: string, id: string): string {
    return `${this.#prefix}.delayed.${queue}.${id}`;
  }
}

/** The events of one job, and what else ends a wait. */
class Events {
  readonly #waiting: Array<Uint8Array | "reconnected" | "aborted"> = [];
  #wake: (() => void) | undefined;

  put(event: Uint8Array | "reconnected" | "aborted"): void {
    this.#waiting.push(event);
    this.#wake?.();
  }

  /** The next event. `undefined` after the time. */
  async next(ms: number): Promise<Uint8Array | "reconnected" | "aborted" | undefined> {
    if (this.#waiting.length === 0) {
      await new Promise<void>((resolve) => {
        // a timer takes at most 2^31 ms; the caller asks again
        const timer = setTimeout(resolve, Math.min(ms, 2 ** 31 - 1));
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#wake = undefined;
    }
    return this.#waiting.shift();
  }
}

/** A job's terminal record, as the worker that cancels it would write it. */
function cancelled(
  record: JobRecord | undefined,
  place: { job_id: string; queue: string },
  envelope: Envelope,
  message: StoredMessage | undefined,
  hasDependents: boolean,
): JobRecord {
  const { lease: _lease, waits: _waits, next_attempt_at: _at, placeholder: _placeholder, error: _error, ...kept } =
    record ?? ({ ...place, attempt: 0 } as JobRecord);
  if (!record && message) {
    kept.enqueue_time = message.headers["Naq-Enqueue-Time"] ?? message.time;
    if (envelope.labels) kept.labels = envelope.labels;
  }
  return {
    ...kept,
    state: "cancelled",
    reason: "cancelled",
    cancel_requested: true,
    finished_at: new Date().toISOString(),
    envelope,
    ...(hasDependents && { has_dependents: true }),
  };
}

function resultTtlMs(envelope: Envelope): number {
  const ttl = envelope.result_ttl;
  if (ttl === undefined || ttl === null) return RESULT_TTL_MS;
  return typeof ttl === "number" ? ttl * 1000 : milliseconds(/^[0-9.]+$/.test(ttl) ? `${ttl}s` : ttl, "result_ttl");
}

const payload = (request: Request): string => JSON.stringify(request.envelope);

function parsed(data: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(data).toString());
  } catch {
    return undefined;
  }
}

function isSame(stored: unknown, envelope: Envelope): boolean {
  return isDeepStrictEqual(stored, JSON.parse(JSON.stringify(envelope)));
}

function conflictUnless(same: boolean, id: string): true {
  if (!same) throw new JobConflictError(`the job id '${id}' is taken by another envelope`);
  return true;
}

const isWrongSequence = (error: unknown): boolean => error instanceof ApiError && error.code === WRONG_LAST_SEQUENCE;

const warn = (text: string): void => process.emitWarning(text, { type: "NaqWarning" });
