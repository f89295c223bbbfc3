// Names, durations and times as the wire has them, and values as JSON.
import { randomUUID } from "node:crypto";
import { ConfigurationError, SerializationError } from "./errors.js";

/**
 * A length of time with its unit, such as `"250ms"`, `"90s"`, `"5m"` or `"1h 30m"`. A number is refused: to naq it
 * would be seconds, and to Node milliseconds.
 */
export type Duration = string;

const NAME = /^[A-Za-z0-9_-]{1,64}$/;
const DERIVED_ID = /.-seq-[0-9]+(-[0-9]+)?$/;
const PART = /\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|us|s|m|h|d|w)\s*/y;
const MS: { [unit: string]: number } = { us: 0.001, ms: 1, s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5 };
const MS_MAX = 3_153_600_000_000;

// as in an envelope, see docs/protocol.md
const DEPTH_MAX = 64;

/** An id that no job has. */
export const newId = (): string => randomUUID();

/** Checks the id of a job. */
export function jobId(text: unknown): string {
  const id = name(text, "the job id");
  if (DERIVED_ID.test(id)) throw new ConfigurationError(`the job id '${id}' has the form of an id that naq derives`);
  return id;
}

/** Checks the name of a queue. */
export const queueName = (text: unknown): string => name(text, "the queue name");

function name(text: unknown, what: string): string {
  if (typeof text !== "string" || !NAME.test(text)) {
    throw new ConfigurationError(`${what} ${shown(text)} is not 1 to 64 of the characters A-Z a-z 0-9 _ -`);
  }
  return text;
}

/** Checks the name of a schedule. */
export function scheduleName(text: unknown): string {
  if (typeof text !== "string" || !/^[A-Za-z0-9_-]{1,40}$/.test(text)) {
    throw new ConfigurationError(`the schedule ${shown(text)} is not 1 to 40 of the characters A-Z a-z 0-9 _ -`);
  }
  return text;
}

/** A duration in milliseconds. */
export function milliseconds(value: Duration, what: string): number {
  if (typeof value === "number") {
    throw new ConfigurationError(`${what}: ${value} has no unit; write '${value}s' or '${value}ms'`);
  }
  if (typeof value !== "string") throw new ConfigurationError(`${what}: ${shown(value)} is not a duration`);
  let total = 0;
  let at = 0;
  while (at < value.length) {
    PART.lastIndex = at;
    const part = PART.exec(value);
    if (!part) throw new ConfigurationError(`${what}: '${value}' is not a duration; write 250ms, 90s, 5m, 1h 30m or 7d`);
    total += Number(part[1]) * MS[part[2]!]!;
    at = PART.lastIndex;
  }
  if (at === 0 || total > MS_MAX) throw new ConfigurationError(`${what}: '${value}' is not from 0 s to 100 years`);
  return total;
}

/** A duration as the envelope has it. */
export function duration(value: Duration, what: string): string {
  milliseconds(value, what);
  return value;
}

/** A time as the wire has it. */
export function moment(value: Date, what: string): string {
  if (!(value instanceof Date) || Number.isNaN(value.getTime())) {
    throw new ConfigurationError(`${what}: ${shown(value)} is not a Date`);
  }
  return value.toISOString();
}

/** Checks that JSON can hold a value, and returns it. Properties that are `undefined` are left out, as usual. */
export function json<T>(value: T, path: string): T {
  check(value, path, 1);
  return value;
}

function check(value: unknown, path: string, depth: number): void {
  if (depth > DEPTH_MAX) {
    throw new SerializationError(path, `more than ${DEPTH_MAX} levels of nesting, or a reference to itself`);
  }
  if (value === null || typeof value === "boolean") return;
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new SerializationError(path, `JSON cannot hold the number ${value}`);
    return;
  }
  if (typeof value === "string") {
    if (!isWellFormed(value)) throw new SerializationError(path, "the text has a lone surrogate, so it is not valid Unicode");
    return;
  }
  if (typeof value !== "object") throw new SerializationError(path, `JSON cannot hold ${article(typeof value)}${hint(value)}`);
  if (Array.isArray(value)) {
    // not `forEach`, which leaves out holes
    for (let index = 0; index < value.length; index++) check(value[index], `${path}[${index}]`, depth + 1);
    return;
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    const kind = value.constructor?.name ?? "object of a class";
    throw new SerializationError(path, `JSON cannot hold ${article(kind)}${hint(value)}`);
  }
  for (const [key, item] of Object.entries(value)) {
    if (item !== undefined) check(item, /^[A-Za-z_$][\w$]*$/.test(key) ? `${path}.${key}` : `${path}['${key}']`, depth + 1);
  }
}

function isWellFormed(text: string): boolean {
  return !/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/.test(text);
}

const article = (noun: string): string => (noun === "undefined" ? noun : `${/^[aeiou]/i.test(noun) ? "an" : "a"} ${noun}`);

function hint(value: unknown): string {
  if (typeof value === "bigint") return "; pass a text or a number";
  if (value instanceof Date) return "; pass its `.toISOString()`";
  if (value instanceof Map) return "; pass `Object.fromEntries(map)`";
  if (value instanceof Set) return "; pass an array";
  if (value instanceof Uint8Array) return "; pass a text, for example of base64";
  if (value instanceof Promise) return "; await it first";
  if (value instanceof URL) return "; pass its `.href`";
  return "";
}

/** A value in a message. */
export function shown(value: unknown): string {
  return typeof value === "string" ? `'${value}'` : String(JSON.stringify(value) ?? value);
}
