// What several test files need.
import { after, before } from "node:test";
import { Naq } from "@naq/client";
import { startWorker } from "@naq/client/testing";

/** A worker for all tests of a file, and a connection to it. */
export function useWorker() {
  const used = {};
  before(async () => {
    used.worker = await startWorker();
    for (const name of Object.keys(process.env)) if (name.startsWith("NAQ_") && !(name in KEPT)) delete process.env[name];
    Object.assign(process.env, used.worker.env);
    used.naq = await Naq.connect();
  });
  after(async () => {
    await used.naq?.close();
    await used.worker?.stop();
  });
  return used;
}

const KEPT = { NAQ_PROGRAM: true, NAQ_NATS_SERVER: true };

/** Waits until a condition holds, at most half a minute. Only for conditions without an event. */
export async function eventually(condition) {
  const until = performance.now() + 30_000;
  while (!(await condition())) {
    if (performance.now() > until) throw new Error("not in time");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
