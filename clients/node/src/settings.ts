// Where NATS is and how to log in: arguments, then `NAQ_*`, then `naq.toml`, as the program `naq` does.
import { createHash } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, realpathSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { parse } from "smol-toml";
import { ConfigurationError } from "./errors.js";
import { type Duration, milliseconds, queueName } from "./values.js";

/** How to connect. What is absent comes from `NAQ_*` variables, from `naq.toml`, or from the server of `naq dev`. */
export interface ConnectOptions {
  /** Address of NATS, such as `nats://127.0.0.1:4222`; several are separated by commas. */
  url?: string;
  /** The queue of jobs that name none. */
  queue?: string;
  /** The prefix of all subjects and streams. */
  prefix?: string;
  token?: string;
  user?: string;
  password?: string;
  /** Path of a credentials file. */
  creds?: string;
  /** Path of a file with an NKey seed. */
  nkey?: string;
  /** Path of the CA certificates to trust. With it the connection uses TLS, or fails. */
  tlsCa?: string;
  /** Path of a client certificate; needs a key. */
  tlsCert?: string;
  /** Path of its private key. */
  tlsKey?: string;
  /** Time limit of the first connection. */
  connectTimeout?: Duration;
}

/** What a connection needs. */
export interface Settings {
  servers: string[];
  queue: string;
  prefix: string;
  token?: string;
  user?: string;
  password?: string;
  creds?: string;
  nkey?: string;
  tlsCa?: string;
  tlsCert?: string;
  tlsKey?: string;
  inboxPrefix?: string;
  jetstreamDomain?: string;
  connectTimeoutMs: number;
  replicas?: number;
  serverUsers: string[];
  /** The name in the greeting of the managed server: another program at its port has another one. */
  serverName?: string;
  /** The worker's socket, inside a job. */
  jobSocket?: { path: string; token: string };
}

type Environment = { [name: string]: string | undefined };
type Values = { [setting: string]: unknown };
type Layer = { from: string; values: Values };

const CREDENTIALS = ["creds", "nkey", "user", "password", "token"];
const ABOUT_NATS = ["nats_url", ...CREDENTIALS, "tls_ca", "tls_cert", "tls_key", "inbox_prefix", "jetstream_domain"];
// what a ./naq.toml that nobody has trusted may set, of the settings that are read here
const HARMLESS = ["connect_timeout", "default_queue"];
const READ = [...ABOUT_NATS, ...HARMLESS, "context", "prefix", "replicas", "server_users", "data_dir"];
const PATHS = ["creds", "nkey", "tls_ca", "tls_cert", "tls_key", "data_dir"];
const FILE_BYTES_MAX = 1 << 20;

/** Reads the settings. */
export function load(options: ConnectOptions, env: Environment = process.env): Settings {
  const layers: Layer[] = [
    { from: "an argument", values: argumentValues(options) },
    { from: "a variable", values: variableValues(env) },
    ...files(env),
  ];
  const values: Values = {};
  const origins: { [setting: string]: number } = {};
  layers.forEach((layer, index) => {
    for (const [name, value] of Object.entries(layer.values)) {
      if (!(name in values)) [values[name], origins[name]] = [value, index];
    }
  });
  if ("context" in values && !("nats_url" in values)) {
    // a context is one place: its address with its credentials
    for (const [name, value] of Object.entries(context(String(values["context"]), env))) {
      if (!(name in values)) [values[name], origins[name]] = [value, origins["context"]!];
    }
  }
  dropForeignCredentials(values, origins, layers);
  const about = ABOUT_NATS.find((name) => name in values);
  if (about !== undefined) {
    if (!("nats_url" in values)) {
      throw new ConfigurationError(
        `\`${about}\` is set and no address of NATS is; set NAQ_NATS_URL, such as nats://127.0.0.1:4222`,
      );
    }
    return settings(values);
  }
  if (env["NAQ_JOB_SOCKET"] !== undefined) return insideJob(values, env);
  return managed(values, env);
}

function argumentValues(options: ConnectOptions): Values {
  const known: { [option in keyof ConnectOptions]-?: string } = {
    url: "nats_url",
    queue: "default_queue",
    prefix: "prefix",
    token: "token",
    user: "user",
    password: "password",
    creds: "creds",
    nkey: "nkey",
    tlsCa: "tls_ca",
    tlsCert: "tls_cert",
    tlsKey: "tls_key",
    connectTimeout: "connect_timeout",
  };
  const values: Values = {};
  for (const [option, value] of Object.entries(options)) {
    const name = known[option as keyof ConnectOptions];
    if (!name) {
      throw new ConfigurationError(`unknown option \`${option}\`; the options are ${Object.keys(known).join(", ")}`);
    }
    if (value !== undefined) values[name] = value;
  }
  return values;
}

function variableValues(env: Environment): Values {
  const values: Values = {};
  for (const name of READ) {
    const value = env[`NAQ_${name.toUpperCase()}`];
    if (value) values[name] = value;
  }
  return values;
}

function settings(values: Values, more: Partial<Settings> = {}): Settings {
  const given = (name: string): string | undefined => (name in values ? String(values[name]) : undefined);
  const path = (name: string): string | undefined => given(name)?.replace(/^~(?=\/)/, homedir());
  for (const [one, other] of [["user", "password"], ["tls_cert", "tls_key"]] as const) {
    if (one in values !== other in values) throw new ConfigurationError(`\`${one}\` and \`${other}\` are set together or not at all`);
  }
  const users = values["server_users"] ?? "nats";
  const timeout = String(values["connect_timeout"] ?? "5s");
  return defined({
    servers: (given("nats_url") ?? "").split(",").map(withScheme).filter(Boolean),
    queue: queueName(values["default_queue"] ?? "default"),
    prefix: given("prefix") ?? "naq",
    token: given("token"),
    user: given("user"),
    password: given("password"),
    creds: path("creds"),
    nkey: path("nkey"),
    tlsCa: path("tls_ca"),
    tlsCert: path("tls_cert"),
    tlsKey: path("tls_key"),
    inboxPrefix: given("inbox_prefix"),
    jetstreamDomain: given("jetstream_domain"),
    // in a file or a variable, a number is seconds
    connectTimeoutMs: milliseconds(/^[0-9.]+$/.test(timeout) ? `${timeout}s` : timeout, "connect_timeout"),
    replicas: "replicas" in values ? Number(values["replicas"]) : undefined,
    serverUsers: Array.isArray(users) ? users.map(String) : String(users).split(","),
    ...more,
  }) as Settings;
}

function withScheme(server: string): string {
  const address = server.trim();
  return address === "" || address.includes("://") ? address : `nats://${address}`;
}

function defined(object: { [name: string]: unknown }): object {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined));
}

function files(env: Environment): Layer[] {
  const named = env["NAQ_CONFIG"];
  if (named) {
    const path = named.replace(/^~(?=\/)/, home(env));
    const text = read(path);
    if (text === undefined) throw new ConfigurationError(`NAQ_CONFIG names ${path}, which does not exist`);
    return [{ from: path, values: parseFile(path, text) }];
  }
  const found: Layer[] = [];
  const here = resolve("naq.toml");
  const own = join(xdg(env, "XDG_CONFIG_HOME", ".config"), "naq", "naq.toml");
  const text = here === own ? undefined : read(here);
  if (text !== undefined) {
    const values = parseFile(here, text);
    const refused = Object.keys(values).find((name) => !HARMLESS.includes(name));
    if (refused !== undefined && !isTrusted(here, text, env)) {
      throw new ConfigurationError(
        `${here} sets \`${refused}\` and may have come with what you cloned or unpacked here; read it, then run \`naq config trust\``,
      );
    }
    found.push({ from: here, values });
  }
  const ownText = read(own);
  if (ownText !== undefined) found.push({ from: own, values: parseFile(own, ownText) });
  return found;
}

/** The text of a settings file, which must be this user's and nobody else's to write. */
function read(path: string): string | undefined {
  let descriptor: number;
  try {
    descriptor = openSync(path, "r");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new ConfigurationError(`${path} cannot be read: ${code}`);
  }
  try {
    const about = fstatSync(descriptor);
    if (!about.isFile()) throw new ConfigurationError(`${path} is not a regular file`);
    if (about.uid !== process.getuid?.() && about.uid !== 0) {
      throw new ConfigurationError(`${path} belongs to another user (uid ${about.uid}), so it is not read`);
    }
    if (about.mode & 0o022) throw new ConfigurationError(`${path} can be written to by others, so it is not read; chmod go-w`);
    if (about.size > FILE_BYTES_MAX) throw new ConfigurationError(`${path} is larger than 1 MiB, so it is not read`);
    return readFileSync(descriptor, "utf8");
  } finally {
    closeSync(descriptor);
  }
}

function parseFile(path: string, text: string): Values {
  let values: Values;
  try {
    values = parse(text);
  } catch (error) {
    throw new ConfigurationError(`${path}: ${(error as Error).message.split("\n")[0]}`);
  }
  for (const name of PATHS) {
    const value = values[name];
    if (typeof value === "string") values[name] = value.startsWith("~/") ? value : resolve(dirname(path), value);
  }
  return values;
}

const home = (env: Environment): string => env["HOME"] || homedir();

function xdg(env: Environment, variable: string, below: string): string {
  const folder = env[variable];
  return folder && isAbsolute(folder) ? folder : join(home(env), below);
}

const dataHome = (env: Environment): string => join(xdg(env, "XDG_DATA_HOME", ".local/share"), "naq");

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

function isTrusted(path: string, text: string, env: Environment): boolean {
  const place = join(realpathSync(dirname(path)), "naq.toml");
  const entry = read(join(dataHome(env), "trusted", sha256(place)));
  return entry?.split("\n")[0] === sha256(text);
}

function context(named: string, env: Environment): Values {
  const folder = join(xdg(env, "XDG_CONFIG_HOME", ".config"), "nats");
  const name = named === "@selected" ? (read(join(folder, "context.txt")) ?? "").trim() : named;
  if (!name || name.includes("/") || name.includes("..")) {
    throw new ConfigurationError(`'${name}' is not the name of a NATS context`);
  }
  const path = join(folder, "context", `${name}.json`);
  const text = read(path);
  if (text === undefined) throw new ConfigurationError(`there is no NATS context '${name}': ${path} does not exist`);
  let content: Values;
  try {
    content = JSON.parse(text) as Values;
  } catch (error) {
    throw new ConfigurationError(`${path}: ${(error as Error).message}`);
  }
  const renamed: { [field: string]: string } = { url: "nats_url", cert: "tls_cert", key: "tls_key", ca: "tls_ca" };
  const values: Values = {};
  for (const field of [...CREDENTIALS, "inbox_prefix", "jetstream_domain", ...Object.keys(renamed)]) {
    if (content[field]) values[renamed[field] ?? field] = content[field];
  }
  return values;
}

/** A credential of a file goes only to the address that the same file names. */
function dropForeignCredentials(values: Values, origins: { [name: string]: number }, layers: Layer[]): void {
  const url = origins["nats_url"];
  if (url === undefined) return;
  for (const name of CREDENTIALS) {
    const origin = origins[name];
    if (origin === undefined || origin === url) continue;
    const isToThisFolder = layers[url]!.from === resolve("naq.toml");
    if (origin >= 2 || isToThisFolder) delete values[name];
  }
}

function insideJob(values: Values, env: Environment): Settings {
  const path = env["NAQ_JOB_SOCKET"];
  if (!path) {
    throw new ConfigurationError("the worker of this job grants its jobs nothing; start it with `--grant enqueue,read`");
  }
  return settings(values, { jobSocket: { path, token: env["NAQ_JOB_TOKEN"] ?? "" } });
}

/** The server that `naq dev`, `naq run` or `naq server start` has started for this user. */
function managed(values: Values, env: Environment): Settings {
  const folder = join(String(values["data_dir"] ?? dataHome(env)), "server");
  const text = read(join(folder, "server.json"));
  const state = text ? (JSON.parse(text) as { [name: string]: string }) : undefined;
  if (!state?.["url"] || !isRunning(Number(state["supervisor_pid"]))) {
    throw new ConfigurationError("no server of naq runs and nothing says where NATS is; run `naq dev`, or set NAQ_NATS_URL");
  }
  return settings(
    { ...values, nats_url: state["url"], nkey: state["nkey_file"], replicas: 1 },
    defined({ serverName: state["server_name"], tlsCa: state["certificate_file"] }) as Partial<Settings>,
  );
}

/** The state of a server that was killed may still exist. A program that answers there has to have its certificate. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
