// BullMQ: `node bullmq.mjs worker SLOTS` is its worker, `node bullmq.mjs client` answers as client.py does.
// PEER_NODE_MODULES is the folder of its package, PEER_REDIS_PORT the port of its Redis.
import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const { Queue, Worker } = createRequire(`${process.env.PEER_NODE_MODULES}/`)("bullmq");
const connection = { host: "127.0.0.1", port: Number(process.env.PEER_REDIS_PORT), maxRetriesPerRequest: null };
const run = promisify(execFile);
const POLL_MS = 10;
const BATCH = 1000;

async function commands(queue, count, argv) {
  const stored = await queue.getCompletedCount();
  for (let start = 0; start < count; start += BATCH) {
    const size = Math.min(BATCH, count - start);
    await queue.addBulk(Array.from({ length: size }, () => ({ name: "command", data: argv })));
  }
  while ((await queue.getCompletedCount()) < stored + count) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

if (process.argv[2] === "worker") {
  const job = async ({ data: [program, ...args] }) => (await run(program, args)).stdout;
  new Worker("peers", job, { connection, concurrency: Number(process.argv[3]) });
} else {
  const queue = new Queue("peers", { connection });
  for await (const line of createInterface({ input: process.stdin })) {
    const [, count, argv] = JSON.parse(line);
    const begun = performance.now();
    await commands(queue, count, argv);
    console.log(JSON.stringify((performance.now() - begun) / 1000));
  }
  process.exit(0);
}
