import type { Backend } from "./backend.js";
import { ConfigurationError } from "./errors.js";
import type { Misfire, Overlap, ScheduleRecord } from "./generated.js";
import type { Call } from "./jobs.js";
import { type Duration, duration, milliseconds, moment, shown } from "./values.js";

/** When a schedule enqueues its jobs. */
export interface ScheduleOptions {
  /** A cron expression, such as `"30 2 * * *"`, in the zone `tz`. */
  cron?: string;
  /** An IANA time zone; by default UTC. */
  tz?: string;
  /** An interval instead of a cron expression. */
  every?: Duration;
  /** The total number of jobs. */
  repeat?: number;
  /** No job before this time. */
  start?: Date;
  /** No job after this time. */
  end?: Date;
  /** What to do while the job before has not ended. */
  overlap?: Overlap;
  /** What to do with times that no scheduler saw. */
  misfire?: Misfire;
}

/** A schedule that was stored. */
export class Schedule {
  /** Its name. */
  readonly name: string;
  readonly #backend: Backend;

  /** @internal */
  constructor(backend: Backend, name: string) {
    this.#backend = backend;
    this.name = name;
  }

  /** The stored schedule. `undefined` if it was deleted. */
  async read(): Promise<ScheduleRecord | undefined> {
    return this.#backend.schedule(this.name);
  }

  /** Pauses it. False if there is no such schedule. */
  async pause(): Promise<boolean> {
    return this.#backend.changeSchedule(this.name, { status: "paused" });
  }

  /** Resumes it. False if there is no such schedule. */
  async resume(): Promise<boolean> {
    return this.#backend.changeSchedule(this.name, { status: "active", paused_reason: null });
  }

  /** Changes some of its options. False if there is no such schedule. */
  async update(options: ScheduleOptions): Promise<boolean> {
    return this.#backend.changeSchedule(this.name, scheduleFields(options));
  }

  /** Deletes it. Jobs that it has enqueued stay. False if there is no such schedule. */
  async delete(): Promise<boolean> {
    return this.#backend.deleteSchedule(this.name);
  }
}

const CRON_FIELD = /^[A-Za-z0-9*?,/#-]+$/;
const CRON_NAMES = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
const WORDS = { overlap: ["allow", "skip", "queue", "replace"], misfire: ["skip", "once", "all"] };
const EVERY_MIN_MS = 100;

/** A schedule as it is stored. */
export function definition(
  name: string,
  call: Call<unknown>,
  defaultQueue: string,
  options: ScheduleOptions,
  now: Date,
): ScheduleRecord {
  const request = call.request(defaultQueue);
  if (request.isChosen || request.at || request.delayMs !== undefined) {
    throw new ConfigurationError("a schedule chooses the ids and times of its jobs; leave out `id`, `at` and `delay`");
  }
  if (request.envelope.expires_at) throw new ConfigurationError("`expiresAt` belongs to one job, not to a schedule");
  if (options.cron === undefined && options.every === undefined) throw new ConfigurationError("a schedule needs `cron` or `every`");
  const fields = Object.entries(scheduleFields(options)).filter(([, value]) => value !== null);
  return {
    schedule_id: name,
    queue: request.queue,
    envelope: request.envelope,
    ...Object.fromEntries(fields),
    status: "active",
    created_at: now.toISOString(),
  } as ScheduleRecord;
}

/** Fields of a stored schedule. `null` removes one. */
function scheduleFields(options: ScheduleOptions): { [field: string]: unknown } {
  const { cron, tz, every, repeat, start, end, overlap, misfire, ...unknown } = options;
  for (const name of Object.keys(unknown)) throw new ConfigurationError(`unknown option \`${name}\` of a schedule`);
  if (cron !== undefined && every !== undefined) throw new ConfigurationError("give `cron` or `every`, not both");
  if (every !== undefined && milliseconds(every, "every") < EVERY_MIN_MS) {
    throw new ConfigurationError(`every: '${every}' is shorter than ${EVERY_MIN_MS} ms`);
  }
  if (repeat !== undefined && (!Number.isInteger(repeat) || repeat < 1)) {
    throw new ConfigurationError(`repeat: ${shown(repeat)} is not a whole number of at least 1`);
  }
  for (const [name, value] of [["overlap", overlap], ["misfire", misfire]] as const) {
    if (value !== undefined && !WORDS[name].includes(value)) {
      throw new ConfigurationError(`${name}: ${shown(value)} is not one of ${WORDS[name].join(", ")}`);
    }
  }
  return {
    ...(cron !== undefined && { cron: checkedCron(cron), every: null, anchor: null }),
    ...(every !== undefined && { every: duration(every, "every"), cron: null, tz: null }),
    ...(tz !== undefined && { tz }),
    ...(repeat !== undefined && { repeat }),
    ...(start !== undefined && { start: moment(start, "start") }),
    ...(end !== undefined && { end: moment(end, "end") }),
    ...(overlap !== undefined && { overlap }),
    ...(misfire !== undefined && { misfire }),
  };
}

/** A first look at a cron expression; the scheduler reads it. */
function checkedCron(cron: string): string {
  const fields = typeof cron === "string" ? cron.trim().split(/\s+/) : [];
  const isExpression = [5, 6].includes(fields.length) && fields.every((field) => CRON_FIELD.test(field));
  if (!isExpression && !CRON_NAMES.includes(cron)) {
    throw new ConfigurationError(`cron: ${shown(cron)} is not an expression such as '30 2 * * *'; \`naq cron explain\` reads one`);
  }
  return cron;
}
