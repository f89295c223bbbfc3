// For tests with `node --test`: a real server and a real worker.
import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { newId } from "./values.js";

const START_MAX_MS = 60_000;
const STOP_MAX_MS = 15_000;

/** A server with a worker of one queue, in a folder of its own. */
export interface TestWorker extends AsyncDisposable {
  /** The queue that the worker serves. */
  readonly queue: string;
  /** Variables with which programs reach it, also `Naq.connect()` and `naq` itself. */
  readonly env: { [name: string]: string };
  /** What the worker has logged. */
  log(): string;
  /** Stops both, and removes the folder. */
  stop(): Promise<void>;
}

/**
 * Starts `naq dev` for a test run: a server, a worker and a scheduler.
 *
 *     const worker = await startWorker();
 *     Object.assign(process.env, worker.env);
 *     after(() => worker.stop());
 *
 * It needs the program `naq`: on the PATH, or named by `NAQ_PROGRAM`.
 */
export async function startWorker(options: { queue?: string; concurrency?: number } = {}): Promise<TestWorker> {
  const folder = await mkdtemp(join(tmpdir(), "naq-test-"));
  const queue = options.queue ?? `test-${newId()}`;
  const config = join(folder, "naq.toml");
  await writeFile(config, "", { mode: 0o600 });
  const env: { [name: string]: string } = {
    NAQ_DATA_DIR: join(folder, "data"),
    NAQ_CONFIG: config,
    NAQ_DEFAULT_QUEUE: queue,
  };
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("NAQ_") || name === "NAQ_NATS_SERVER");
  const program = process.env["NAQ_PROGRAM"] ?? "naq";
  // a file and no pipe: a test that blocks the event loop, as `spawnSync` does, would not read a pipe, and a worker
  // whose log nobody reads stops
  const logFile = join(folder, "log");
  const log = openSync(logFile, "w");
  const child = spawn(program, ["dev", queue, "--concurrency", String(options.concurrency ?? 4), "--drain-timeout", "0"], {
    cwd: folder,
    env: { ...Object.fromEntries(inherited), ...env },
    stdio: ["ignore", "ignore", log],
  });
  closeSync(log);
  const readLog = (): string => readFileSync(logFile, "utf8");
  const stop = async (): Promise<void> => {
    await end(child);
    // a server that had to be killed may still be writing
    await rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  };
  try {
    await started(child, readLog);
  } catch (error) {
    await stop();
    throw error;
  }
  // a test run that ends otherwise leaves nothing behind
  process.once("exit", () => child.kill());
  return { queue, env, log: readLog, stop, [Symbol.asyncDispose]: stop };
}

async function started(child: ChildProcess, readLog: () => string): Promise<void> {
  let failure: string | undefined;
  child.once("error", (error) => {
    failure = `this test needs the program \`naq\`; install it, or name it by NAQ_PROGRAM (${error.message})`;
  });
  child.once("exit", (code) => {
    failure = `\`naq dev\` ended with ${code}:\n${readLog()}`;
  });
  const until = performance.now() + START_MAX_MS;
  while (!/^stop /m.test(readLog())) {
    if (performance.now() > until) failure = `\`naq dev\` did not start within ${START_MAX_MS / 1000} s:\n${readLog()}`;
    if (failure !== undefined) throw new Error(failure);
    await setTimeout(20);
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill();
  const isSlow = new AbortController();
  const kill = setTimeout(STOP_MAX_MS, undefined, { signal: isSlow.signal }).then(() => child.kill("SIGKILL"));
  await ended;
  isSlow.abort();
  await kill.catch(() => undefined);
}
