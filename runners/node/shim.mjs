// naq's shim for Node, Deno and Bun: calls one function for one job. The standard library only; Node 20.12 and newer.
//
// `runners/README.md` describes the contract: the call is JSON in the file `$NAQ_CALL_FILE`, the result and the error
// go to the control channel, and stdin, stdout and stderr are the job's.
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import net from "node:net";
import path from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import util from "node:util";
import vm from "node:vm";

const RETRY_EXIT_CODE = 75;
// what a line of the control channel may have, unless the worker says otherwise; longer lines are dropped
const LINE_MAX = 256 * 1024;
// as in an envelope
const DEPTH_MAX = 64;
const MESSAGE_MAX = 4000;
const TRACE_MAX = 32000;
const CONTROL_FD = 3;

/** Ends the job with the exit code that means "try again", after a wait such as "30s". */
class Retry extends Error {
  constructor(message = "", { after, ...options } = {}) {
    super(message, options);
    this.after = after;
  }
}

/** Fails the job, and no attempt follows. */
class Fatal extends Error {}

/** The file, the package or the function does not exist. */
class NotFound extends Error {}

/** JSON cannot hold the result. */
class SerializationError extends Error {}

for (const kind of [Retry, Fatal, NotFound, SerializationError]) {
  Object.defineProperty(kind.prototype, "name", { value: kind.name, configurable: true, writable: true });
}

// a job needs no import for these two: `throw new naq.Retry("busy", { after: "30s" })`
globalThis.naq ??= Object.freeze({ Retry, Fatal });

// --- values ---

/** Checks that JSON can hold a value. Properties that are `undefined` are left out. */
function toJson(value, at, depth = 1) {
  if (depth > DEPTH_MAX) throw new SerializationError(`${at}: more than ${DEPTH_MAX} levels of nesting, or a reference to itself`);
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new SerializationError(`${at}: JSON cannot hold the number ${value}`);
    return value;
  }
  if (typeof value === "string") {
    if (/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/.test(value)) {
      throw new SerializationError(`${at}: the text has a lone surrogate, so it is not valid Unicode`);
    }
    return value;
  }
  if (typeof value !== "object") throw new SerializationError(`${at}: JSON cannot hold ${article(typeof value)}${hint(value)}`);
  if (Array.isArray(value)) return Array.from(value, (item, index) => toJson(item, `${at}[${index}]`, depth + 1));
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) {
    // a class of the job that says how it is written; the classes of the language lose what they are
    if (typeof value.toJSON === "function" && hint(value) === "") return toJson(value.toJSON(), at, depth + 1);
    throw new SerializationError(`${at}: JSON cannot hold ${article(value.constructor?.name || "object of a class")}${hint(value)}`);
  }
  const converted = {};
  for (const [key, item] of Object.entries(value)) {
    if (item === undefined) continue;
    const inner = /^[A-Za-z_$][\w$]*$/.test(key) ? `${at}.${key}` : `${at}[${JSON.stringify(key)}]`;
    // not an assignment, which `__proto__` would make something else
    Object.defineProperty(converted, toJson(key, `a key of ${at}`), {
      value: toJson(item, inner, depth + 1),
      enumerable: true,
    });
  }
  return converted;
}

const article = (noun) => (noun === "undefined" ? noun : `${/^[aeiou]/i.test(noun) ? "an" : "a"} ${noun}`);

function hint(value) {
  if (typeof value === "bigint") return "; return a text or a number";
  if (value instanceof Date) return "; return its `.toISOString()`";
  if (value instanceof Map) return "; return `Object.fromEntries(map)`";
  if (value instanceof Set) return "; return an array";
  if (ArrayBuffer.isView(value)) return "; return a text, for example of base64";
  if (value instanceof Promise) return "; await it first";
  if (value instanceof URL) return "; return its `.href`";
  return "";
}

// --- the control channel ---

const lineMax = () => Number(process.env.NAQ_CONTROL_LINE_MAX || LINE_MAX);
const line = (value) => Buffer.from(`${JSON.stringify(value)}\n`);

function writeControl(data) {
  if (globalThis.Deno) return writeControlOfDeno(data);
  for (let at = 0; at < data.length; ) {
    try {
      at += writeSync(CONTROL_FD, data, at);
    } catch (error) {
      // else success without the result
      if (error.code === "EBADF") throw new Error("the job closed descriptor 3, the control channel");
      // the worker has gone
      if (error.code !== "EAGAIN") return;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

/** Deno cannot write to a descriptor: it opens it by its name, or, if another user owns it, has `cat` write. */
function writeControlOfDeno(data) {
  let control;
  try {
    control = openSync(`/dev/fd/${CONTROL_FD}`, "a");
  } catch {
    spawnSync("/bin/sh", ["-c", `cat >&${CONTROL_FD}`], { input: data });
    return;
  }
  for (let at = 0; at < data.length; ) at += writeSync(control, data, at);
  closeSync(control);
}

function writeResult(value) {
  const data = line({ result: value === undefined ? null : toJson(value, "result") });
  if (data.length > lineMax()) {
    throw new SerializationError(
      `result: ${data.length} bytes of JSON, and at most ${lineMax()} are kept; write it to stdout or to a file`,
    );
  }
  writeControl(data);
}

function writeError(type, message, trace, retry) {
  for (let size = TRACE_MAX; ; size = Math.floor(size / 2)) {
    const error = { type, message: shortened(message, Math.min(size, MESSAGE_MAX)), trace: shortened(trace, size), retry };
    const data = line({ error });
    if (data.length > lineMax() && size >= 16) continue;
    try {
      writeControl(data);
    } catch (problem) {
      console.error(`naq: ${problem.message}`);
    }
    return;
  }
}

/** A text of at most about this many characters, half of them from its beginning, half from its end. */
function shortened(text, size) {
  if (text.length > size) {
    const half = Math.floor(size / 2);
    text = `${text.slice(0, half)}\n[${text.length - 2 * half} characters left out]\n${text.slice(-half)}`;
  }
  // a lone surrogate, also one that the cut has made, is not valid on the control channel
  return Buffer.from(text).toString();
}

/** Reports an error, and returns the exit code. */
function reportError(error) {
  let type, message, trace;
  if (error instanceof Error || util.types.isNativeError(error)) {
    const own = error.constructor?.name;
    type = String(error.name && error.name !== "Error" ? error.name : own || "Error");
    message = String(error.message);
    trace = util.inspect(error, { colors: false });
  } else {
    // anything can be thrown
    type = error === null ? "null" : typeof error;
    trace = util.inspect(error);
    message = typeof error === "string" ? error : trace;
  }
  try {
    writeSync(2, `${trace}\n`);
  } catch {
    // the job closed its stderr
  }
  if (error instanceof NotFound || error instanceof SerializationError) {
    writeError(type, message, trace, false);
    return 1;
  }
  const names = classNames(error);
  if (names.has("Retry")) {
    if (typeof error.after === "string") writeControl(line({ retry_after: error.after }));
    writeError(type, message, trace);
    return RETRY_EXIT_CODE;
  }
  writeError(type, message, trace, names.has("Fatal") ? false : undefined);
  return 1;
}

/** The name of an error and those of its classes, since a class of another copy of a module is another class. */
function classNames(error) {
  const names = new Set();
  if (!(error instanceof Error)) return names;
  names.add(error.name);
  for (let at = Object.getPrototypeOf(error); at; at = Object.getPrototypeOf(at)) names.add(at.constructor?.name);
  return names;
}

// --- the function ---

async function findFunction(call, modulePath) {
  const at = call.lastIndexOf(":");
  const [target, name] = [call.slice(0, at), call.slice(at + 1)];
  if (at < 1 || name === "") throw new NotFound(`\`${call}\` is not \`./file.js:function\` or \`package:function\``);
  const folders = [...modulePath, "."].map((folder) => path.resolve(folder));
  const module = isFile(target) ? await importFile(target, folders) : await importPackage(target, folders);
  // a CommonJS module has its exports as `default`, and those that Node found by reading it under their names
  let found = module;
  for (const part of name.split(".")) found = found?.[part];
  if (found === undefined && typeof module.default === "object") found = module.default?.[name];
  if (found === undefined) throw new NotFound(`\`${target}\` exports no \`${name}\`; it exports ${Object.keys(module).join(", ") || "nothing"}`);
  if (typeof found !== "function") throw new NotFound(`\`${call}\` is ${article(typeof found)} and not a function`);
  return found;
}

const isFile = (target) => /^(\.{0,2}\/|.*\.[cm]?[jt]s$)/.test(target);

function findFile(target, folders) {
  const places = [...new Set(folders.map((folder) => path.resolve(folder, target)))];
  const file = places.find((place) => existsSync(place));
  if (file === undefined) throw new NotFound(`no file ${places.join(" or ")}`);
  return file;
}

/** The files that calls have named, since the last frame that said so: the process is out of date when one changes. */
const loadedFiles = new Set();
const reportedFiles = new Set();

function newFiles() {
  const files = [...loadedFiles].filter((file) => !reportedFiles.has(file));
  for (const file of files) reportedFiles.add(file);
  return files.length > 0 ? { files } : {};
}

async function importFile(target, folders) {
  const file = findFile(target, folders);
  loadedFiles.add(file);
  return import(pathToFileURL(file).href);
}

async function importPackage(target, folders) {
  let missing;
  for (const folder of folders) {
    try {
      return await importFrom(target, path.join(folder, "naq-job.mjs"));
    } catch (error) {
      // a package that the job's module imports is another matter: that error stays as it is
      if (!/MODULE_NOT_FOUND|ERR_UNSUPPORTED_DIR_IMPORT/.test(error?.code) || !String(error.message).includes(`'${target}'`)) throw error;
      missing = error;
    }
  }
  throw new NotFound(`no package \`${target}\` in node_modules of ${folders.join(" or ")}; a file is \`./file.js\``, { cause: missing });
}

/** Imports a package as a module in that file would. */
function importFrom(target, file) {
  if (globalThis.Bun) return import(pathToFileURL(globalThis.Bun.resolveSync(target, path.dirname(file))).href);
  if (globalThis.Deno) return import(pathToFileURL(createRequire(file).resolve(target)).href);
  const importModuleDynamically = vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER;
  return new vm.Script("(name) => import(name)", { filename: file, importModuleDynamically }).runInThisContext()(target);
}

async function runCall(call) {
  const found = await findFunction(call.call, call.module_path ?? []);
  const kwargs = call.kwargs ?? {};
  const args = [...(call.args ?? [])];
  if (Object.keys(kwargs).length > 0) args.push(kwargs);
  return await found(...args);
}

/** Waits until what the job wrote has left this process. */
const flush = () => Promise.all([process.stdout, process.stderr].map((stream) => new Promise((done) => {
  // Bun calls back before it has written all; it has at the end of the stream
  if (globalThis.Bun) stream.end(() => done());
  else stream.write("", () => done());
})));

const neverSettled = (call) => new Error(`the promise of \`${call}\` is never settled: nothing is left that could settle it`);

/** Calls the function, and ends this process. */
async function runAndExit(call) {
  process.argv = [process.argv[0], call.call];
  let ended = false;
  const fail = (error) => {
    if (ended) return;
    ended = true;
    process.exit(reportError(error));
  };
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  process.on("beforeExit", () => fail(neverSettled(call.call)));
  try {
    const value = await runCall(call);
    if (ended) return;
    await flush();
    writeResult(value);
    ended = true;
  } catch (error) {
    await flush();
    fail(error);
  }
  // what is left open, such as a connection, does not keep the process: the function has returned
  process.exit(0);
}

// --- the warm protocol ---

/** The worker's end of the socket: frames are a length of 4 bytes and a JSON object. */
class Worker {
  constructor(onFrame) {
    this.pieces = [];
    this.size = 0;
    this.socket = new net.Socket({ fd: Number(process.env.NAQ_WARM_FD) });
    this.socket.on("data", (piece) => {
      this.pieces.push(piece);
      this.size += piece.length;
      for (let frame; (frame = this.next()) !== undefined; ) onFrame(frame);
    });
    // the worker has gone
    this.socket.on("close", () => this.onClose());
    this.socket.on("error", () => this.onClose());
  }

  onClose() {
    process.exit(0);
  }

  next() {
    if (this.size < 4) return undefined;
    if (this.pieces[0].length < 4) this.join();
    const end = 4 + this.pieces[0].readUInt32BE(0);
    if (this.size < end) return undefined;
    const all = this.join();
    this.pieces = all.length > end ? [all.subarray(end)] : [];
    this.size -= end;
    return JSON.parse(all.toString("utf8", 4, end));
  }

  join() {
    this.pieces = [Buffer.concat(this.pieces)];
    return this.pieces[0];
  }

  send(frame, done) {
    const data = Buffer.from(JSON.stringify(frame));
    const size = Buffer.alloc(4);
    size.writeUInt32BE(data.length);
    this.socket.write(Buffer.concat([size, data]), done);
  }
}

/** Makes this process one of the job: its environment, directory, umask and arguments. */
function enterJob(job, argv) {
  for (const name of Object.keys(process.env)) if (!(name in job.env)) delete process.env[name];
  Object.assign(process.env, job.env);
  if (job.umask !== undefined) process.umask(job.umask);
  process.chdir(job.cwd);
  process.argv = [process.argv[0], ...argv];
}

const activeResources = () => process.getActiveResourcesInfo?.().length ?? 0;

/** Waits until handles that are being closed are closed. */
const nextTurn = () => new Promise((done) => setImmediate(done));

async function warm() {
  const mode = process.env.NAQ_WARM_MODE ?? "reuse";
  const modulePath = (process.env.NAQ_MODULE_PATH ?? "").split(":").filter(Boolean).map((folder) => path.resolve(folder));
  const folders = [...modulePath, path.resolve(".")];
  let job, fail, isStopping = false, number = 0;
  const idle = (error) => {
    // nobody's: what an earlier job has left. This process is replaced
    process.stderr.write(`${util.inspect(error)}\n`);
    process.exit(1);
  };
  process.on("uncaughtException", (error) => (fail ?? idle)(error));
  process.on("unhandledRejection", (error) => (fail ?? idle)(error));

  const worker = new Worker((frame) => {
    if (frame.t === "ping") worker.send({ t: "pong", rss: process.memoryUsage.rss() });
    else if (frame.t === "job" && job === undefined) {
      job = frame;
      worker.send({ t: "started", n: job.n, pid: process.pid });
    } else if (frame.t === "go" && frame.n === job?.n && number !== job.n) {
      number = job.n;
      if (mode === "reuse") void reuse();
      else void standby();
    } else if (frame.t === "stop") {
      isStopping = true;
      if (job === undefined) process.exit(0);
    } else if (frame.t !== "pong") worker.send({ t: "huh" });
  });

  /** Runs the one job of this process. Its descriptors 0 to 3 are the job's. */
  async function standby() {
    process.removeAllListeners("uncaughtException");
    process.removeAllListeners("unhandledRejection");
    worker.onClose = () => {};
    worker.socket.destroy();
    enterJob(job, job.file ? [job.file, ...job.args.map(String)] : [job.call]);
    if (!job.file) return runAndExit({ ...job, module_path: modulePath });
    // a script ends as it does by `node FILE`
    await import(pathToFileURL(job.file).href);
  }

  /** Runs a job and is ready for the next one. */
  async function reuse() {
    await nextTurn();
    const baseline = activeResources();
    let status = 0;
    // of a rejection that nothing awaits too: whether it is the last job's is not known, so this process is replaced
    let left = 0;
    try {
      enterJob(job, [job.call ?? job.file]);
      if (job.file) throw new Fatal("a process that is reused calls functions; a script has a process of its own");
      const failed = new Promise((_, reject) => {
        fail = (error) => {
          left += 1;
          reject(error);
        };
      });
      const value = await Promise.race([runCall({ ...job, module_path: modulePath }), failed]);
      await flush();
      writeResult(value);
    } catch (error) {
      await flush();
      status = reportError(error);
    }
    await nextTurn();
    left += Math.max(0, activeResources() - baseline);
    const n = job.n;
    fail = job = undefined;
    const ended = { t: "ended", n, ok: status === 0, status: status << 8, active: left, rss: process.memoryUsage.rss(), ...newFiles() };
    worker.send(ended, () => isStopping && process.exit(0));
  }

  // what a preload prints is no job's, and the pipes of a process that is reused are its jobs'
  const restoreOutput = mode === "reuse" ? hideOutput() : () => {};
  try {
    for (const name of JSON.parse(process.env.NAQ_PRELOAD || "[]")) {
      await (isFile(name) ? importFile(name, folders) : importPackage(name, folders));
    }
  } catch (error) {
    restoreOutput();
    process.stderr.write(`${util.inspect(error)}\n`);
    const trace = shortened(util.inspect(error), TRACE_MAX);
    const message = shortened(String(error?.message ?? error), MESSAGE_MAX);
    worker.send({ t: "broken", error: { type: String(error?.name ?? typeof error), message, trace } }, () => process.exit(1));
    return;
  }
  restoreOutput();
  // so that they are in the baseline
  void process.stdout, process.stderr;
  worker.send({
    t: "hello",
    protocol: 1,
    pid: process.pid,
    version: process.versions.node,
    modes: ["reuse", "standby"],
    threads: countThreads(),
    rss: process.memoryUsage.rss(),
    files: [],
    ...newFiles(),
  });
}

/** Lets what the streams get go nowhere. Returns what ends that. */
function hideOutput() {
  const streams = [process.stdout, process.stderr];
  const nothing = (_data, encoding, done) => {
    const callback = typeof encoding === "function" ? encoding : done;
    if (callback) process.nextTick(callback);
    return true;
  };
  for (const stream of streams) stream.write = nothing;
  // the property hides the method of the stream's class
  return () => streams.forEach((stream) => delete stream.write);
}

function countThreads() {
  try {
    return readdirSync("/proc/self/task").length;
  } catch {
    return 1;
  }
}

// not awaited: of a module that waits for ever, `beforeExit` says nothing
if (process.argv.includes("--warm")) {
  void warm();
} else {
  const call = JSON.parse(readFileSync(process.env.NAQ_CALL_FILE, "utf8"));
  delete process.env.NAQ_CALL_FILE;
  void runAndExit(call);
}
