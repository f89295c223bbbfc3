import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, realpathSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { beforeEach, test } from "node:test";
import { current, Naq } from "@naq/client";
import { listener } from "../dist/connection.js";
import { load } from "../dist/settings.js";

let home;
beforeEach(() => {
  home = realpathSync(mkdtempSync(join(tmpdir(), "naq-home-")));
  process.chdir(home);
});
const settings = (env = {}, options = {}) => load(options, { HOME: home, ...env });
const write = (path, text) => {
  mkdirSync(dirname(join(home, path)), { recursive: true });
  writeFileSync(join(home, path), text, { mode: 0o600 });
  return join(home, path);
};
const sha256 = (text) => createHash("sha256").update(text).digest("hex");

test("an argument overrides a variable, which overrides a file", () => {
  write(".config/naq/naq.toml", 'nats_url = "nats://file:1"\nprefix = "file"\ndefault_queue = "file"\n');
  assert.deepEqual(settings().servers, ["nats://file:1"]);
  const found = settings({ NAQ_NATS_URL: "a:1, nats://b:2", NAQ_PREFIX: "variable", NAQ_CONNECT_TIMEOUT: "250ms" });
  assert.deepEqual(found.servers, ["nats://a:1", "nats://b:2"]);
  assert.deepEqual([found.prefix, found.queue, found.connectTimeoutMs], ["variable", "file", 250]);
  assert.equal(settings({ NAQ_PREFIX: "variable" }, { prefix: "argument" }).prefix, "argument");
  assert.throws(() => settings({}, { urll: "x" }), /unknown option `urll`; the options are url, queue/);
});

test("a file of this folder needs trust", () => {
  const here = write("naq.toml", 'nats_url = "nats://here:1"\n');
  assert.throws(() => settings(), /sets `nats_url` and may have come with .* `naq config trust`/);
  write(`.local/share/naq/trusted/${sha256(here)}`, `${sha256('nats_url = "nats://here:1"\n')}\n`);
  assert.deepEqual(settings().servers, ["nats://here:1"]);
  write("naq.toml", 'nats_url = "nats://elsewhere:1"\n');
  assert.throws(() => settings(), /naq config trust/);
});

test("a file that others may write is refused", () => {
  chmodSync(write(".config/naq/naq.toml", ""), 0o666);
  assert.throws(() => settings(), /can be written to by others/);
  assert.throws(() => settings({ NAQ_CONFIG: join(home, "none.toml") }), /which does not exist/);
  write("bad.toml", "nats_url = ");
  assert.throws(() => settings({ NAQ_CONFIG: join(home, "bad.toml") }), /bad\.toml: /);
});

test("a credential of a file goes only to its own address", () => {
  write(".config/naq/naq.toml", 'nats_url = "nats://own:1"\ntoken = "secret"\n');
  assert.equal(settings().token, "secret");
  assert.equal(settings({ NAQ_NATS_URL: "nats://other:1" }).token, undefined);
  assert.equal(settings({ NAQ_NATS_URL: "nats://other:1", NAQ_TOKEN: "mine" }).token, "mine");
});

test("a context of nats", () => {
  write(".config/nats/context/prod.json", JSON.stringify({ url: "nats://prod:1", creds: "/c", ca: "/ca" }));
  write(".config/nats/context.txt", "prod\n");
  for (const name of ["prod", "@selected"]) {
    const found = settings({ NAQ_CONTEXT: name });
    assert.deepEqual([found.servers, found.creds, found.tlsCa], [["nats://prod:1"], "/c", "/ca"]);
  }
  assert.throws(() => settings({ NAQ_CONTEXT: "none" }), /there is no NATS context 'none'/);
});

test("an address is never guessed", () => {
  assert.throws(() => settings(), /run `naq dev`, or set NAQ_NATS_URL/);
  assert.throws(() => settings({ NAQ_TOKEN: "x" }), /`token` is set and no address of NATS is/);
  assert.throws(() => settings({ NAQ_NATS_URL: "nats://a:1", NAQ_USER: "x" }), /`user` and `password` are set together/);
  const state = { url: "nats://127.0.0.1:1", nkey_file: "/key", server_name: "one", certificate_file: "/pem", supervisor_pid: 2 ** 30 };
  write(".local/share/naq/server/server.json", JSON.stringify(state));
  assert.throws(() => settings(), /no server of naq runs/);
  write(".local/share/naq/server/server.json", JSON.stringify({ ...state, supervisor_pid: process.pid }));
  const found = settings();
  assert.deepEqual([found.nkey, found.serverName, found.tlsCa], ["/key", "one", "/pem"]);
});

test("inside a job the worker is used unless NATS is set", () => {
  const job = { NAQ_JOB_SOCKET: "/run/naq.sock", NAQ_JOB_TOKEN: "t" };
  assert.deepEqual(settings(job).jobSocket, { path: "/run/naq.sock", token: "t" });
  assert.equal(settings({ ...job, NAQ_NATS_URL: "nats://a:1" }).jobSocket, undefined);
  assert.throws(() => settings({ NAQ_JOB_SOCKET: "" }), /grants its jobs nothing; start it with `--grant enqueue,read`/);
});

test("a server that does not run is named, without its password", async () => {
  await assert.rejects(Naq.connect({ url: "nats://user:secret@127.0.0.1:1", connectTimeout: "1s" }), (error) => {
    assert.equal(error.name, "ConnectionError");
    assert.match(error.message, /^cannot connect to NATS at nats:\/\/127.0.0.1:1: .*is NATS running there\?$/);
    return true;
  });
  const silent = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => silent.once("listening", resolve));
  assert.equal(listener(silent.address().port), process.getuid());
  const started = performance.now();
  await assert.rejects(Naq.connect({ url: `nats://127.0.0.1:${silent.address().port}`, connectTimeout: "500ms" }), /no answer within 0.5 s/);
  assert(performance.now() - started < 5_000);
  // every connection to it is closed, or a program would not end
  await new Promise((resolve) => silent.close(resolve));
  await assert.rejects(Naq.connect({ url: "nats://127.0.0.1:1", nkey: "/none" }), /`nkey` names \/none, which cannot be read: ENOENT/);
});

test("outside a job reports do nothing and questions throw", () => {
  current.progress(1);
  current.checkpoint(1);
  current.result(1);
  assert.equal(current.lastCheckpoint, undefined);
  assert.equal(current.isActive, false);
  assert.throws(() => current.jobId, /runs no job of naq/);
  assert.throws(() => current.progress(101), /101 is not a percentage/);
  assert.throws(() => current.result(new Map()), /result: JSON cannot hold a Map/);
});
