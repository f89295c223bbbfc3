// A connection to NATS: requests with a bound, messages of streams, and errors that say what to do.
import { readFileSync } from "node:fs";
import { createConnection } from "node:net";
import {
  connect,
  credsAuthenticator,
  headers as newHeaders,
  type Msg,
  type NatsConnection,
  type NodeConnectionOptions,
  nkeyAuthenticator,
  NoRespondersError as NatsNoResponders,
  RequestError,
  TimeoutError,
} from "@nats-io/transport-node";
import { ConfigurationError, ConnectionError, NaqError, StoreFullError } from "./errors.js";
import type { Layout } from "./layout.js";
import type { Settings } from "./settings.js";

const REQUEST_TIMEOUT_MS = 5_000;
const GREETING_MAX = 64 * 1024;

/** Codes of errors of the JetStream API. */
export const STREAM_NOT_FOUND = 10059;
export const MESSAGE_NOT_FOUND = 10037;
export const WRONG_LAST_SEQUENCE = 10071;
const NO_REPLICAS = [10074, 10052];
const OTHER_SETTINGS = 10058;

/** Nothing answers at a subject: the stream does not exist. */
export class NoResponders extends NaqError {}

/** A request was not answered in time. It may have arrived. */
export class NoAnswer extends ConnectionError {}

/** JetStream refuses a request. */
export class ApiError extends NaqError {
  readonly code: number;

  constructor(subject: string, error: { description?: string; err_code?: number }) {
    super(`NATS refuses a request to ${subject}: ${error.description}`);
    this.code = error.err_code ?? 0;
  }
}

/** A message of a stream. */
export interface StoredMessage {
  subject: string;
  sequence: number;
  data: Uint8Array;
  headers: { [name: string]: string };
  time: string;
}

export type Acknowledgement = { seq: number; duplicate?: boolean };

/** A connection to NATS. */
export class Connection {
  readonly settings: Settings;
  readonly #nats: NatsConnection;
  readonly #api: string;
  /** Called after each reconnect: what was published meanwhile is missing. */
  readonly reconnected = new Set<() => void>();
  #isDown = false;

  private constructor(settings: Settings, nats: NatsConnection) {
    this.settings = settings;
    this.#nats = nats;
    this.#api = settings.jetstreamDomain ? `$JS.${settings.jetstreamDomain}.API` : "$JS.API";
    void this.#follow();
  }

  /** Connects. */
  static async open(settings: Settings): Promise<Connection> {
    for (const server of settings.servers) checkServerUser(server, settings);
    const options = connectOptions(settings);
    // The client waits without a bound for the first line of a server that accepts connections and never sends one,
    // and keeps its socket. So each server has to send it first.
    const greeted = await Promise.allSettled(settings.servers.map((server) => readGreeting(server, settings)));
    const answering = settings.servers.filter((_, index) => greeted[index]!.status === "fulfilled");
    if (answering.length === 0) {
      const [first] = greeted as PromiseRejectedResult[];
      if (first?.reason instanceof NaqError) throw first.reason;
      throw new ConnectionError(unreachable(settings, first?.reason as Error));
    }
    try {
      return new Connection(settings, await connect({ ...options, servers: answering }));
    } catch (error) {
      throw new ConnectionError(unreachable(settings, error as Error));
    }
  }

  async close(): Promise<void> {
    await this.#nats.close();
  }

  /** Subscribes to a subject until `stop` is called. */
  subscribe(subject: string, callback: (message: Msg) => void): { stop: () => void } {
    const subscription = this.#nats.subscribe(subject, {
      callback: (error, message) => {
        if (!error) callback(message);
      },
    });
    return { stop: () => subscription.unsubscribe() };
  }

  /** A request and its answer, at most REQUEST_TIMEOUT_MS. */
  async request(subject: string, payload: Uint8Array | string, headers: { [name: string]: string } = {}): Promise<Msg> {
    const sent = newHeaders();
    for (const [name, value] of Object.entries(headers)) sent.set(name, value);
    const size = typeof payload === "string" ? Buffer.byteLength(payload) : payload.length;
    const largest = this.#nats.info?.max_payload ?? Infinity;
    if (size > largest) throw new StoreFullError(`the message has ${size} bytes, and the server takes at most ${largest}`);
    try {
      return await this.#nats.request(subject, payload, { timeout: REQUEST_TIMEOUT_MS, headers: sent });
    } catch (error) {
      const cause = error instanceof RequestError && error.cause instanceof Error ? error.cause : (error as Error);
      if (error instanceof NatsNoResponders || cause instanceof NatsNoResponders || (error instanceof RequestError && error.isNoResponders())) {
        throw new NoResponders(`nothing answers at ${subject}`);
      }
      if (error instanceof TimeoutError || cause instanceof TimeoutError) {
        throw new NoAnswer(
          this.#isDown
            ? `the connection to NATS at ${shown(this.settings)} is lost and being restored`
            : `NATS at ${shown(this.settings)} did not answer within ${REQUEST_TIMEOUT_MS / 1000} s (a request to ${subject})`,
        );
      }
      throw new ConnectionError(`NATS at ${shown(this.settings)}: ${cause.message}`);
    }
  }

  /** A request of the JetStream API. */
  async api<T>(verb: string, body?: unknown): Promise<T> {
    const subject = `${this.#api}.${verb}`;
    let answer: { error?: { description?: string; err_code?: number } };
    try {
      answer = (await this.request(subject, body === undefined ? "" : JSON.stringify(body))).json();
    } catch (error) {
      if (!(error instanceof NoResponders)) throw error;
      throw new ConnectionError(`NATS at ${shown(this.settings)} has no JetStream for this user; start nats-server with \`-js\``);
    }
    if (answer.error) throw new ApiError(subject, answer.error);
    return answer as T;
  }

  /** Stores a message. Throws NoResponders if no stream has the subject. */
  async publish(subject: string, payload: Uint8Array | string, headers: { [name: string]: string }): Promise<Acknowledgement> {
    const answer = (await this.request(subject, payload, headers)).json<Acknowledgement & { error?: { description?: string; err_code?: number } }>();
    if (answer.error) {
      if (/insufficient|maximum|exceeded/.test(answer.error.description ?? "")) {
        throw new StoreFullError(`NATS has no room for the message: ${answer.error.description}`);
      }
      throw new ApiError(subject, answer.error);
    }
    return answer;
  }

  /** Reads a message of a stream. `undefined` if it or the stream does not exist. */
  async message(stream: string, selector: { seq?: number; last_by_subj?: string; next_by_subj?: string }): Promise<StoredMessage | undefined> {
    type Answer = { message: { subject: string; seq: number; data?: string; hdrs?: string; time: string } };
    try {
      const { message } = await this.api<Answer>(`STREAM.MSG.GET.${stream}`, selector);
      return {
        subject: message.subject,
        sequence: message.seq,
        data: Buffer.from(message.data ?? "", "base64"),
        headers: parseHeaders(Buffer.from(message.hdrs ?? "", "base64").toString()),
        time: message.time,
      };
    } catch (error) {
      if (error instanceof ApiError && [STREAM_NOT_FOUND, MESSAGE_NOT_FOUND].includes(error.code)) return undefined;
      throw error;
    }
  }

  /** A value of a bucket with its revision, which is 0 if the key was never set. */
  async value<T>(bucket: string, key: string): Promise<{ value: T | undefined; revision: number }> {
    const found = await this.message(`KV_${bucket}`, { last_by_subj: `$KV.${bucket}.${key}` });
    if (!found) return { value: undefined, revision: 0 };
    const isRemoved = found.data.length === 0 && ("KV-Operation" in found.headers || "Nats-Marker-Reason" in found.headers);
    const value = isRemoved ? undefined : (JSON.parse(Buffer.from(found.data).toString()) as T);
    return { value, revision: found.sequence };
  }

  /** The subjects of a stream that match, in their order. */
  async subjects(stream: string, filter: string): Promise<string[]> {
    type Answer = { state: { subjects?: { [subject: string]: number } } };
    try {
      const info = await this.api<Answer>(`STREAM.INFO.${stream}`, { subjects_filter: filter });
      return Object.keys(info.state.subjects ?? {}).sort();
    } catch (error) {
      if (error instanceof ApiError && error.code === STREAM_NOT_FOUND) return [];
      throw error;
    }
  }

  /** Creates a stream with as many replicas as the settings or the cluster say. */
  async createStream(layout: Layout): Promise<void> {
    const wanted = this.settings.replicas;
    for (const replicas of wanted ? [wanted] : [3, 2, 1]) {
      try {
        await this.api(`STREAM.CREATE.${layout.name}`, { ...layout, num_replicas: replicas });
        return;
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        // it exists with other settings, which are the operator's
        if (error.code === OTHER_SETTINGS) return;
        if (wanted || replicas === 1 || !NO_REPLICAS.includes(error.code)) throw error;
      }
    }
  }

  /** Creates a durable consumer, unless it exists or this user may not: the first worker creates it then. */
  async createConsumer(stream: string, config: Layout): Promise<void> {
    try {
      await this.api(`CONSUMER.CREATE.${stream}.${config.name}`, { stream_name: stream, config, action: "create" });
    } catch (error) {
      if (!(error instanceof NaqError)) throw error;
    }
  }

  /** The bytes of an object of an object store. */
  async object(bucket: string, name: string): Promise<Uint8Array> {
    const encoded = Buffer.from(name).toString("base64url");
    const padded = encoded.padEnd(Math.ceil(encoded.length / 4) * 4, "=");
    const meta = await this.message(`OBJ_${bucket}`, { last_by_subj: `$O.${bucket}.M.${padded}` });
    type About = { nuid: string; chunks: number; deleted?: boolean };
    const about = meta?.data.length ? (JSON.parse(Buffer.from(meta.data).toString()) as About) : undefined;
    if (!about || about.deleted) throw new NaqError(`the object ${name} of ${bucket} does not exist; it has expired or was removed`);
    const chunks: Uint8Array[] = [];
    let seq = 1;
    for (let index = 0; index < about.chunks; index++) {
      const chunk = await this.message(`OBJ_${bucket}`, { seq, next_by_subj: `$O.${bucket}.C.${about.nuid}` });
      if (!chunk) throw new NaqError(`the object ${name} of ${bucket} is incomplete`);
      chunks.push(chunk.data);
      seq = chunk.sequence + 1;
    }
    return Buffer.concat(chunks);
  }

  async #follow(): Promise<void> {
    for await (const status of this.#nats.status()) {
      if (status.type === "disconnect") this.#isDown = true;
      if (status.type === "reconnect") {
        this.#isDown = false;
        for (const notify of this.reconnected) notify();
      }
    }
  }
}

function connectOptions(settings: Settings): NodeConnectionOptions {
  const options: NodeConnectionOptions = {
    servers: settings.servers,
    name: "@naq/client (Node)",
    timeout: settings.connectTimeoutMs,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 500,
  };
  if (settings.token) options.token = settings.token;
  if (settings.user) options.user = settings.user;
  if (settings.password) options.pass = settings.password;
  if (settings.nkey) options.authenticator = nkeyAuthenticator(Buffer.from(readFile("nkey", settings.nkey).toString().trim()));
  if (settings.creds) options.authenticator = credsAuthenticator(readFile("creds", settings.creds));
  if (settings.inboxPrefix) options.inboxPrefix = settings.inboxPrefix;
  const { tlsCa, tlsCert, tlsKey } = settings;
  if (tlsCa || tlsCert) {
    options.tls = {
      ...(tlsCa && { ca: readFile("tls_ca", tlsCa).toString() }),
      ...(tlsCert && { cert: readFile("tls_cert", tlsCert).toString() }),
      ...(tlsKey && { key: readFile("tls_key", tlsKey).toString() }),
    };
  }
  return options;
}

function readFile(setting: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new ConfigurationError(`\`${setting}\` names ${path}, which cannot be read: ${(error as NodeJS.ErrnoException).code}`);
  }
}

function unreachable(settings: Settings, error: Error): string {
  const causes = error instanceof AggregateError ? error.errors : [error.cause ?? error];
  const cause = causes[0] as NodeJS.ErrnoException;
  const text = cause.message || cause.code || error.message;
  let advice = "is NATS running there?";
  if (/authorization|authentication/i.test(`${error.name} ${text}`)) {
    advice = "set NAQ_CREDS, NAQ_NKEY, NAQ_TOKEN, or NAQ_USER and NAQ_PASSWORD";
  } else if (/certificate/i.test(text)) {
    advice = "set NAQ_TLS_CA to the file of the CA; of the server of `naq dev`, `server.pem` next to its key";
  }
  return `cannot connect to NATS at ${shown(settings)}: ${text}; ${advice}`;
}

/** The addresses without passwords. */
function shown(settings: Settings): string {
  return settings.servers.map((server) => server.replace(/\/\/[^@/]*@/, "//")).join(", ");
}

/** Reads the first line that a server sends, before it gets anything. */
function readGreeting(server: string, settings: Settings): Promise<void> {
  const url = new URL(server);
  const host = url.hostname.replace(/^\[|\]$/g, "");
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host, port: Number(url.port || 4222) });
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no answer within ${settings.connectTimeoutMs / 1000} s`));
    }, settings.connectTimeoutMs);
    let received = "";
    socket.on("data", (chunk) => {
      received += chunk.toString();
      const line = /^INFO (.*)\r\n/.exec(received)?.[1];
      if (line === undefined && received.length < GREETING_MAX) return;
      socket.destroy();
      clearTimeout(timer);
      const name = line && (JSON.parse(line) as { server_name?: string }).server_name;
      if (line === undefined) reject(new Error("another program than NATS answers"));
      else if (settings.serverName && name !== settings.serverName) {
        reject(new ConnectionError(`another program than naq's server answers at ${shown(settings)}: ${name}`));
      } else resolve();
    });
    socket.on("error", reject);
    socket.on("close", () => {
      clearTimeout(timer);
      reject(new Error("the connection is closed"));
    });
  });
}

/** Another user of this machine who listens there would receive the jobs: see docs/settings.md. */
function checkServerUser(server: string, settings: Settings): void {
  const url = new URL(server);
  const isLoopback = ["127.0.0.1", "localhost", "[::1]"].includes(url.hostname);
  if (url.protocol === "tls:" || settings.tlsCa || !isLoopback) return;
  const owner = listener(Number(url.port || 4222));
  if (owner === undefined || owner === process.getuid?.() || owner === 0) return;
  const names = [String(owner), userName(owner)];
  if (names.some((name) => name !== undefined && settings.serverUsers.includes(name))) return;
  throw new ConnectionError(
    `the server at ${shown(settings)} belongs to uid ${owner}, which is neither this user nor root nor named by \`server_users\``,
  );
}

/** The user of the process that listens at a port of this machine. `undefined` if the kernel does not say. */
export function listener(port: number): number | undefined {
  for (const table of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    let lines: string[];
    try {
      lines = readFileSync(table, "utf8").split("\n").slice(1);
    } catch {
      continue;
    }
    for (const line of lines) {
      const fields = line.trim().split(/\s+/);
      if (fields[3] === "0A" && Number.parseInt(fields[1]!.split(":")[1]!, 16) === port) return Number(fields[7]);
    }
  }
  return undefined;
}

function userName(uid: number): string | undefined {
  try {
    const line = readFileSync("/etc/passwd", "utf8").split("\n").find((user) => user.split(":")[2] === String(uid));
    return line?.split(":")[0];
  } catch {
    return undefined;
  }
}

function parseHeaders(block: string): { [name: string]: string } {
  const headers: { [name: string]: string } = {};
  for (const line of block.split("\r\n").slice(1)) {
    const colon = line.indexOf(":");
    if (colon > 0) headers[line.slice(0, colon).trim()] = line.slice(colon + 1).trim();
  }
  return headers;
}
