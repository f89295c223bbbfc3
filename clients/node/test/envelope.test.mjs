// Envelopes are what schemas/envelope.v1.json describes, and mistakes are refused where they are made.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import { Naq } from "@naq/client";
import { z } from "zod";

const schema = JSON.parse(readFileSync(new URL("../../../schemas/envelope.v1.json", import.meta.url), "utf8"));
// formats such as date-time are annotations in JSON Schema 2020-12
const isValid = new Ajv2020({ strict: false, validateFormats: false }).compile(schema);

// no server: inside a job, requests have connections of their own
let naq;
before(async () => {
  for (const name of Object.keys(process.env)) if (/^NAQ_(?!PROGRAM|NATS_SERVER)/.test(name)) delete process.env[name];
  process.env.NAQ_JOB_SOCKET = "/nonexistent";
  naq = await Naq.connect();
});
after(() => {
  delete process.env.NAQ_JOB_SOCKET;
});

test("every kind of job and every option makes a valid envelope", async () => {
  const calls = [
    naq.command("echo", ["a", 1, 2.5, true]),
    naq.script("echo $1", ["a"]),
    await naq.job("./jobs/resize.js:default").call({ url: "a", sizes: [1, null] }),
    await naq.job("./jobs/resize.js:default").call(undefined),
    naq.command("cat", [], { input: { a: 1 } }),
    naq.command("./report.sh", [], {
      queue: "q",
      id: "one",
      delay: "5m",
      retries: 3,
      retryDelay: ["1s", "2s"],
      retryStrategy: "exponential",
      retryMaxDelay: "1h 30m",
      retryJitter: false,
      retryOn: [1, 2],
      fatalOn: [3],
      successOn: [4],
      timeout: "250ms",
      expiresAt: new Date("2030-01-01"),
      resultTtl: "0s",
      dependsOn: ["a", { job: "b", on: "failure", as: "fetch" }, naq.fetch("c"), "build-seq-7"],
      dependencyTimeout: "1d",
      concurrencyKey: "key",
      concurrencyMax: 2,
      requires: { gpu: "yes" },
      labels: { kind: "x" },
      meta: { any: [1, null] },
      env: { REGION: "eu" },
      secrets: ["TOKEN"],
      cwd: "/srv",
      files: [{ path: "a/b", digest: `sha256:${"0".repeat(64)}`, bytes: 3, executable: true }],
      artifacts: ["out/*.csv"],
      limits: { memory: "256M", cpuTime: "1m", cpus: 0.5, processes: 3, nice: 5, addressSpace: "1G", fileSize: 1, openFiles: 9, output: 0 },
      stdin: new Uint8Array([255]),
      overlapOk: true,
      mustUnderstand: ["timeout", "limits.memory"],
    }),
  ];
  for (const call of calls) assert(isValid(JSON.parse(JSON.stringify(call.envelope()))), JSON.stringify(isValid.errors));
  assert.deepEqual(calls[2].envelope(), {
    function: "./jobs/resize.js:default",
    runner: "node",
    args: [{ url: "a", sizes: [1, null] }],
  });
  assert.deepEqual(calls.at(-1).envelope().depends_on, ["a", { job: "b", on: "failure", as: "fetch" }, "c", "build-seq-7"]);
});

const WRONG = [
  [{ retrys: 3 }, /unknown option `retrys`; the options are artifacts, at, concurrencyKey/],
  [{ timeout: 5 }, /timeout: 5 has no unit; write '5s' or '5ms'/],
  [{ timeout: "5 minutes" }, /timeout: '5 minutes' is not a duration; write 250ms, 90s/],
  [{ queue: "a b" }, /the queue name 'a b' is not 1 to 64/],
  [{ id: "build-seq-7" }, /an id that naq derives/],
  [{ at: new Date("x") }, /at: null is not a Date/],
  [{ at: new Date(), delay: "1s" }, /give `at` or `delay`, not both/],
  [{ retries: 10_001 }, /retries: 10001 is not a whole number from 0 to 10000/],
  [{ retryStrategy: "random" }, /is not fixed, linear or exponential/],
  [{ env: { NAQ_X: "1" } }, /env.NAQ_X: a name has no '='/],
  [{ env: { A: 1 } }, /env.A: 1 is not a text/],
  [{ limits: { ram: 1 } }, /limits.ram: unknown; the limits are memory/],
  [{ retryOn: [256] }, /256 is not an exit code/],
  [{ dependsOn: { job: "a", on: "maybe" } }, /'maybe' is not success, failure or finished/],
  [{ dependsOn: 3 }, /3 is not a job or the id of one/],
  [{ secrets: "TOKEN" }, /secrets: 'TOKEN' is not an array/],
  [{ cwd: "a\0b" }, /has a NUL/],
  [{ artifacts: "out" }, /is not an array/],
  [{ input: 1, stdin: "a" }, /give one of `input` and `stdin`/],
  [{ meta: [new Date()] }, /meta\[0\]: JSON cannot hold a Date; pass its `.toISOString\(\)`/],
];

for (const [options, problem] of WRONG) {
  test(`the option ${Object.keys(options)} = ${JSON.stringify(Object.values(options)[0])} is refused at once`, () => {
    assert.throws(() => naq.command("true", [], options), problem);
    assert.throws(() => naq.job("./a.js:f", { ...options, input: undefined, ...("input" in options && { id: "a.b" }) }));
  });
}

const NOT_JSON = [
  [{ a: [1n] }, "input.a[0]", /a bigint; pass a text/],
  [{ "a b": new Map() }, "input['a b']", /a Map; pass `Object.fromEntries/],
  [new Set(), "input", /a Set; pass an array/],
  [[Number.NaN], "input[0]", /the number NaN/],
  [[undefined], "input[0]", /cannot hold undefined/],
  [() => 1, "input", /a function/],
  ["\ud800", "input", /lone surrogate/],
  [new Uint8Array(1), "input", /an Uint8Array|a Uint8Array/],
  [Promise.resolve(), "input", /await it first/],
  [new (class Point {})(), "input", /a Point/],
];

for (const [value, path, problem] of NOT_JSON) {
  test(`${path} that JSON cannot hold is refused: ${problem}`, async () => {
    await assert.rejects(naq.job("./a.js:f").call(value), (error) => {
      assert.equal(error.name, "SerializationError");
      assert.equal(error.path, path);
      assert.match(error.message, problem);
      return true;
    });
  });
}

test("a reference to itself is refused", async () => {
  const value = {};
  value.self = value;
  await assert.rejects(naq.job("./a.js:f").call(value), /a reference to itself/);
});

test("an absent property is left out", async () => {
  const call = await naq.job("./a.js:f").call({ a: 1, b: undefined });
  assert.equal(JSON.stringify(call.envelope().args), '[{"a":1}]');
});

test("an input that does not match its schema is refused with its path", async () => {
  const resize = naq.job("./jobs/resize.js:default", { input: z.object({ sizes: z.array(z.number()) }) });
  await assert.rejects(resize.enqueue({ sizes: [1, "2"] }), (error) => {
    assert.equal(error.path, "input.sizes[1]");
    assert.match(error.message, /expected number/);
    return true;
  });
});

test("a program takes only what a process can receive", () => {
  assert.throws(() => naq.command("echo", ["a", { b: 1 }]), /args\[1\]: an argument of a program is a text/);
  assert.throws(() => naq.command("echo", "a"), /the arguments 'a' are not an array/);
  assert.throws(() => naq.command("echo", ["a\0"]), /has a NUL/);
  assert.throws(() => naq.command(""), /command: '' is not a text/);
  assert.throws(() => naq.job("resize"), /does not name a function; write '.\/module.js:name'/);
});

test("the types are what the schemas say", () => {
  execFileSync(process.execPath, [new URL("../scripts/generate-types.mjs", import.meta.url).pathname, "--check"]);
});
