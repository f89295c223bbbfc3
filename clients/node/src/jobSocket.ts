// Jobs through the socket of the worker that runs this job: docs/protocol.md, "The socket of a worker".
import { createConnection } from "node:net";
import type { Backend, Request, Status, WaitOptions } from "./backend.js";
import {
  ConfigurationError,
  ConnectionError,
  JobConflictError,
  JobNotFoundError,
  NaqError,
  StoreFullError,
  WaitTimeoutError,
} from "./errors.js";
import type { JobRecord, ScheduleRecord, WorkerInfo } from "./generated.js";
import { type Fetched, isEnded } from "./outcome.js";
import type { Settings } from "./settings.js";

/** A worker answers a `wait` after 20 s at the latest. */
const WAIT_MAX_MS = 20_000;
const ANSWER_MAX_MS = 10_000;

const ERRORS: { [code: string]: new (message: string) => NaqError } = {
  not_found: JobNotFoundError,
  conflict: JobConflictError,
  refused: ConfigurationError,
  full: StoreFullError,
};

type Answer = { record?: JobRecord; waits_for?: { cause: string }; bytes?: number; error?: { code: string; message: string; hint?: string } };

/** What a worker lets its jobs do. */
export class JobSocketBackend implements Backend {
  readonly settings: Settings;
  readonly #path: string;
  readonly #token: string;

  constructor(settings: Settings, socket: { path: string; token: string }) {
    this.settings = settings;
    this.#path = socket.path;
    this.#token = socket.token;
  }

  async close(): Promise<void> {
    // each request has a connection of its own
  }

  async enqueue(request: Request): Promise<void> {
    const start = request.at ? { at: request.at.toISOString() } : request.delayMs ? { in: request.delayMs / 1000 } : {};
    const envelope = { job_id: request.id, ...request.envelope };
    await this.#ask("enqueue", { queue: request.queue, envelope, ...start });
  }

  async status(id: string): Promise<Status> {
    const { answer } = await this.#ask("status", { job_id: id });
    return answer.record!;
  }

  async *changes(id: string, _queue: string | undefined, options: WaitOptions): AsyncGenerator<Status> {
    const { timeoutMs, signal } = options;
    const until = timeoutMs === undefined ? Infinity : performance.now() + timeoutMs;
    let before: string | undefined;
    for (;;) {
      signal?.throwIfAborted();
      const bound = Math.max(0, Math.min(WAIT_MAX_MS, until - performance.now()));
      const { answer } = await this.#ask("wait", { job_id: id, timeout: bound / 1000 }, bound, signal);
      const record = answer.record!;
      if (record.state !== before) yield record;
      before = record.state;
      if (isEnded(record.state)) return;
      if (performance.now() >= until) {
        const { waits_for } = (await this.#ask("status", { job_id: id })).answer;
        const why = waits_for ? `${record.state} (${waits_for.cause})` : record.state;
        throw new WaitTimeoutError(`job ${id} has not ended after ${timeoutMs! / 1000} s: it is ${why}`);
      }
    }
  }

  async fetchOutput(record: JobRecord): Promise<Fetched> {
    const fetched: Fetched = {};
    for (const stream of ["stdout", "stderr"] as const) {
      const output = record[stream];
      if (output?.object && !output.truncated) {
        fetched[stream] = (await this.#ask("output", { job_id: record.job_id, stream })).bytes;
      }
    }
    return fetched;
  }

  async cancel(): Promise<never> {
    throw needsNats("cancel");
  }

  async workers(): Promise<WorkerInfo[]> {
    throw needsNats("workers");
  }

  async schedule(): Promise<ScheduleRecord | undefined> {
    throw needsNats("schedule");
  }

  async putSchedule(): Promise<void> {
    throw needsNats("schedule");
  }

  async changeSchedule(): Promise<boolean> {
    throw needsNats("schedule");
  }

  async deleteSchedule(): Promise<boolean> {
    throw needsNats("schedule");
  }

  async now(): Promise<Date> {
    return new Date();
  }

  async #ask(
    request: string,
    fields: { [name: string]: unknown },
    waitMs = 0,
    signal?: AbortSignal,
  ): Promise<{ answer: Answer; bytes: Uint8Array }> {
    const line = `${JSON.stringify({ token: this.#token, request, ...fields })}\n`;
    let received: Buffer;
    try {
      received = await exchange(this.#path, line, waitMs + ANSWER_MAX_MS, signal);
    } catch (error) {
      signal?.throwIfAborted();
      throw new ConnectionError(`the job's worker does not answer at ${this.#path}: ${(error as Error).message}`);
    }
    const end = received.indexOf("\n");
    const answer = JSON.parse(received.subarray(0, end).toString()) as Answer;
    if (answer.error) {
      const { code, message, hint } = answer.error;
      throw new (ERRORS[code] ?? ConnectionError)(hint ? `${message}; ${hint}` : message);
    }
    return { answer, bytes: received.subarray(end + 1) };
  }
}

/** Sends a line and reads the answer: a line, and after it as many bytes as its `bytes` says. */
function exchange(path: string, line: string, boundMs: number, signal?: AbortSignal): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    const socket = createConnection({ path, ...(signal && { signal }) });
    let wanted: number | undefined;
    socket.setTimeout(boundMs, () => socket.destroy(new Error(`no answer within ${boundMs / 1000} s`)));
    socket.on("error", reject);
    socket.on("connect", () => socket.write(line));
    socket.on("data", (chunk) => {
      chunks.push(chunk);
      const all = Buffer.concat(chunks);
      const end = all.indexOf("\n");
      if (end < 0) return;
      wanted ??= end + 1 + ((JSON.parse(all.subarray(0, end).toString()) as Answer).bytes ?? 0);
      if (all.length >= wanted) {
        socket.destroy();
        resolve(all);
      }
    });
    socket.on("close", () => reject(new Error("the worker closed the connection")));
  });
}

function needsNats(what: string): ConnectionError {
  return new ConnectionError(
    `\`${what}\` needs NATS, and a job has only its worker's socket; set NAQ_NATS_URL in the job's environment`,
  );
}
