// Commands and scripts on a real server with a real worker.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import { Naq, NaqError } from "@naq/client";
import { eventually, useWorker } from "./helpers.mjs";

const used = useWorker();
const timeout = "30s";
const stateOf = async (job) => (await job.status()).state;

test("a command returns what it wrote", async () => {
  const job = await used.naq.command("sh", ["-c", "cat; echo log >&2"], { stdin: "text", labels: { a: "b" } }).enqueue();
  const outcome = await job.result({ timeout });
  assert.equal(outcome.text, "text");
  assert.equal(Buffer.from(outcome.stderr).toString(), "log\n");
  assert.deepEqual([outcome.ok, outcome.state, outcome.exitCode, outcome.attempt], [true, "succeeded", 0, 1]);
  assert.deepEqual(outcome.record.labels, { a: "b" });
  assert.equal(job.queue, used.worker.queue);
});

test("a failure says why", async () => {
  const job = await used.naq.command("sh", ["-c", "echo 'Error: no disk' >&2; exit 3"]).enqueue();
  await assert.rejects(job.result({ timeout }), (error) => {
    assert.equal(error.name, "JobFailedError");
    assert(error instanceof NaqError);
    assert.match(error.message, /failed \(exit 3\): Error: no disk$/);
    assert.equal(error.outcome.exitCode, 3);
    return true;
  });
});

test("a function returns its result or throws", async () => {
  const folder = mkdtempSync(join(tmpdir(), "naq-"));
  writeFileSync(join(folder, "tasks.mjs"), "export const double = ({ n }) => n * 2;\n");
  const job = await used.naq.job("./tasks.mjs:double", { cwd: folder }).enqueue({ n: 21 });
  assert.equal(await job.result({ timeout }), 42);
  const failed = await used.naq.job("./no-such-file.js:f").enqueue({ a: 1 });
  await assert.rejects(failed.result({ timeout }), (error) => {
    assert.equal(error.name, "JobFailedError");
    assert.equal(error.type, "NotFound");
    assert.match(error.reason, /no-such-file/);
    return true;
  });
});

test("output is whole or an error", async () => {
  const long = await (await used.naq.command("seq", [200_000], { limits: { output: "4M" } }).enqueue()).result({ timeout });
  assert.equal(long.stdout.length, 1_288_895);
  const cut = await (await used.naq.command("seq", [200_000]).enqueue()).result({ timeout });
  assert.throws(() => cut.stdout, { name: "OutputIncompleteError", message: /limits: \{ output/ });
  assert.match(cut.stdoutPreview, /^1\n2\n[^]*bytes missing here[^]*200000\n$/);
});

test("an id runs once", async () => {
  const call = used.naq.command("date", ["+%N"], { id: "once" });
  const first = await (await call.enqueue()).result({ timeout });
  assert.equal((await (await call.enqueue()).result({ timeout })).text, first.text);
  await assert.rejects(used.naq.command("true", [], { id: "once" }).enqueue(), { name: "JobConflictError", message: /is taken by another envelope/ });
  const later = used.naq.command("true", [], { id: "later", delay: "1h" });
  await later.enqueue();
  const job = await later.enqueue();
  await assert.rejects(used.naq.command("false", [], { id: "later", delay: "1h" }).enqueue(), { name: "JobConflictError" });
  assert.equal(await stateOf(job), "scheduled");
  assert(await job.cancel());
});

test("a delayed job starts in time", async () => {
  const started = performance.now();
  const job = await used.naq.command("true", [], { delay: "1s" }).enqueue();
  await job.result({ timeout });
  assert(performance.now() - started >= 1_000);
  await (await used.naq.command("true", [], { at: new Date("2020-01-01") }).enqueue()).result({ timeout });
});

test("dependencies", async () => {
  const broken = await used.naq.command("false").enqueue();
  const after = await used.naq.command("true", [], { dependsOn: broken }).enqueue();
  const alarm = await used.naq.command("echo", ["alarm"], { dependsOn: { job: broken, on: "failure" } }).enqueue();
  assert.equal((await alarm.result({ timeout })).text, "alarm\n");
  assert.equal((await after.outcome({ timeout })).reason, "dependency");
});

test("events", async () => {
  const source = '#!/bin/sh\necho \'{"progress": 40, "message": "resizing"}\' >&3\nsleep 0.5\necho \'{"result": [1, 2]}\' >&3\n';
  const job = await used.naq.script(source).enqueue();
  const seen = [];
  for await (const event of job.events({ timeout })) seen.push(event);
  assert.equal(seen.at(-1).state, "succeeded");
  assert(seen.some((event) => event.state === "running" && event.progress?.percent === 40 && event.progress.message === "resizing"));
  assert.deepEqual((await job.result({ timeout })).result, [1, 2]);
});

test("a job is cancelled in every state", async () => {
  const naq = used.naq;
  const running = await naq.command("sleep", [600]).enqueue();
  await eventually(async () => (await stateOf(running)) === "running");
  const waiting = await naq.command("true", [], { dependsOn: running }).enqueue();
  await eventually(async () => (await stateOf(waiting)) === "waiting");
  const after = await naq.command("true", [], { dependsOn: waiting }).enqueue();
  await eventually(async () => (await stateOf(after)) === "waiting");
  const delayed = await naq.command("true", [], { delay: "1h", labels: { a: "b" } }).enqueue();
  const retrying = await naq.command("false", [], { retries: 3, retryDelay: "1h", retryJitter: false }).enqueue();
  await eventually(async () => (await stateOf(retrying)) === "retrying");
  for (const job of [waiting, delayed, retrying, running]) {
    assert(await job.cancel());
    await assert.rejects(job.result({ timeout }), { name: "JobCancelledError" });
    assert.equal(await job.cancel(), false, "it has ended");
  }
  assert.equal((await after.outcome({ timeout })).reason, "dependency");
  await assert.rejects(naq.fetch("none").cancel(), { name: "JobNotFoundError", message: /there is no job 'none'/ });
  const schema = JSON.parse(readFileSync(new URL("../../../schemas/record.v1.json", import.meta.url), "utf8"));
  const isValid = new Ajv2020({ strict: false, validateFormats: false }).compile(schema);
  for (const job of [waiting, delayed, retrying]) {
    const { record } = await job.outcome({ timeout });
    assert(isValid(record), JSON.stringify(isValid.errors));
  }
});

test("a wait ends in time and says what the job waits for", async () => {
  const naq = used.naq;
  const job = await naq.command("sleep", [3]).enqueue();
  await eventually(async () => (await stateOf(job)) === "running");
  await assert.rejects(job.result({ timeout: "200ms" }), { name: "WaitTimeoutError", message: /has not ended after 0.2 s: it runs on worker/ });
  await assert.rejects((await naq.command("true", [], { delay: "1h" }).enqueue()).result({ timeout: "100ms" }), /it starts at 20/);
  const unserved = await naq.command("true", [], { queue: "nobody" }).enqueue();
  await assert.rejects(unserved.result({ timeout: "100ms" }), /no worker serves queue `nobody`; start one with `naq worker nobody`/);
  await assert.rejects(naq.fetch("none").result({ timeout: "1s" }), { name: "JobNotFoundError" });
});

test("a wait without a bound says what it waits for, and a signal ends it", async () => {
  const job = await used.naq.command("true", [], { queue: "nobody" }).enqueue();
  const warned = new Promise((resolve) => process.once("warning", resolve));
  const ending = new AbortController();
  const waiting = job.result({ signal: ending.signal });
  const warning = await warned;
  assert.equal(warning.name, "NaqWarning");
  assert.match(warning.message, /no worker serves queue `nobody`/);
  ending.abort(new Error("enough"));
  await assert.rejects(waiting, /enough/);
  await job.cancel();
});

test("many jobs", async () => {
  const jobs = await used.naq.enqueueMany(Array.from({ length: 300 }, (_, n) => used.naq.command("echo", [n])));
  const outcomes = await Promise.all(jobs.map((job) => job.result({ timeout: "60s" })));
  assert.deepEqual(outcomes.map((outcome) => Number(outcome.text)), Array.from({ length: 300 }, (_, n) => n));
  await used.naq.command("true", [], { id: "batch" }).enqueue();
  const half = used.naq.enqueueMany([used.naq.command("true"), used.naq.command("false", [], { id: "batch" })]);
  await assert.rejects(half, (error) => {
    assert.match(error.message, /1 of 2 jobs were not enqueued; the first is number 1: the job id 'batch'/);
    assert.equal(error.jobs[1], undefined);
    assert(error.jobs[0].id);
    return true;
  });
});

test("a payload that is too large is refused", async () => {
  await assert.rejects(used.naq.command("cat", [], { input: "x".repeat(2_000_000) }).enqueue(), { name: "StoreFullError", message: /the server takes at most/ });
});

test("a schedule is one that naq reads", async () => {
  const naq = used.naq;
  const show = (name) => {
    const done = spawnSync(process.env.NAQ_PROGRAM ?? "naq", ["schedule", "show", name, "--json"], { encoding: "utf8" });
    assert.equal(done.status, 0, done.stderr);
    return JSON.parse(done.stdout);
  };
  const call = naq.command("./backup.sh", [], { timeout: "1h" });
  const schedule = await naq.schedule(call, { name: "nightly", cron: "30 2 * * *", tz: "Europe/Berlin", overlap: "skip", start: new Date("2030-01-01") });
  assert.equal(show("nightly").tz, "Europe/Berlin");
  assert.match(show("nightly").next_run, /^2030-01-01T01:30/);
  await assert.rejects(naq.schedule(call, { name: "nightly", every: "1h" }), { name: "JobConflictError" });
  assert(await schedule.pause());
  assert.equal(show("nightly").status, "paused");
  assert(await schedule.update({ every: "1h" }));
  assert(await schedule.resume());
  assert.equal((await schedule.read()).every, "1h");
  assert.equal(show("nightly").cron, undefined);
  assert(await schedule.delete());
  assert.equal(await schedule.delete(), false);
  for (const [options, problem] of [[{}, /needs `cron` or `every`/], [{ cron: "daily" }, /is not an expression/], [{ every: "1ms" }, /shorter than/], [{ every: "1h", repeat: 0 }, /repeat: 0/], [{ every: "1h", at: 1 }, /unknown option `at`/]]) {
    await assert.rejects(naq.schedule(call, options), problem);
  }
  const beat = await naq.schedule(naq.command("true"), { every: "200ms", repeat: 1 });
  await eventually(async () => (await beat.read()).progress?.runs === 1);
  assert((await naq.fetch((await beat.read()).progress.last_job_id).result({ timeout })).ok);
});

test("a wait continues after NATS was away", async () => {
  const job = await used.naq.command("sleep", [2]).enqueue();
  await eventually(async () => (await stateOf(job)) === "running");
  const state = JSON.parse(readFileSync(`${process.env.NAQ_DATA_DIR}/server/server.json`, "utf8"));
  // the supervisor starts it again
  process.kill(state.pid, "SIGKILL");
  assert((await job.result({ timeout })).ok);
  assert((await (await used.naq.command("true").enqueue()).result({ timeout })).ok);
});

test("a program ends once its connection is closed", () => {
  const program = `import { Naq } from "@naq/client";
    const naq = await Naq.connect();
    try { console.log((await (await naq.command("echo", ["x"]).enqueue()).result({ timeout: "30s" })).text); } finally { await naq.close(); }`;
  const done = spawnSync(process.execPath, ["--input-type=module", "-e", program], { encoding: "utf8", timeout: 30_000, cwd: new URL("..", import.meta.url) });
  assert.equal(done.stdout, "x\n\n", done.stderr);
  assert.equal(done.stderr, "");
});

test("a job reports and enqueues through its worker", async () => {
  const program = `import { current, Naq } from ${JSON.stringify(new URL("../dist/index.js", import.meta.url).href)};
    current.progress(40, "half");
    if (current.attempt === 1) { current.checkpoint({ page: 7 }); current.retry("100ms"); }
    const naq = await Naq.connect({ queue: current.queue });
    const inner = await (await naq.command("seq", [100000], { limits: { output: "4M" } }).enqueue()).result({ timeout: "30s" });
    const failed = await (await naq.command("false").enqueue()).outcome({ timeout: "30s" });
    const late = await (await naq.command("sleep", [20]).enqueue()).result({ timeout: "300ms" }).catch((error) => error.name);
    const none = await naq.fetch("none").status().catch((error) => error.name);
    const workers = await naq.workers().catch((error) => error.message);
    current.result({ checkpoint: current.lastCheckpoint, bytes: inner.stdout.length, failed: failed.state, late, none, workers });`;
  const job = await used.naq.command(process.execPath, ["--input-type=module", "-e", program], { retries: 1, retryDelay: "1h" }).enqueue();
  const { result, record } = await job.result({ timeout: "60s" });
  assert.deepEqual(record.progress, { percent: 40, message: "half" });
  assert.match(result.workers, /needs NATS, and a job has only its worker's socket/);
  delete result.workers;
  assert.deepEqual(result, { checkpoint: { page: 7 }, bytes: 588_895, failed: "failed", late: "WaitTimeoutError", none: "JobNotFoundError" });
});

test("`await using` closes the connection", async () => {
  const naq = await Naq.connect();
  await naq[Symbol.asyncDispose]();
  await assert.rejects(naq.command("true").enqueue(), { name: "ConnectionError" });
});
