// The package is what it says: what `npm pack` makes can be used, and the examples of the README run.
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import typescript from "typescript";
import { eventually, useWorker } from "./helpers.mjs";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const used = useWorker();

test("what npm packs has the types and no tests, and can be imported", () => {
  const folder = mkdtempSync(join(tmpdir(), "naq-pack-"));
  try {
    const packed = execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], { cwd: ROOT, encoding: "utf8" });
    const about = JSON.parse(packed);
    // an object by the package's name since npm 11.6
    const { filename, files } = Array.isArray(about) ? about[0] : Object.values(about)[0];
    const paths = files.map((file) => file.path);
    for (const path of ["README.md", "dist/index.js", "dist/index.d.ts", "dist/testing.js", "package.json"]) assert(paths.includes(path), path);
    assert(paths.every((path) => path.startsWith("dist/") || ["README.md", "package.json"].includes(path)), paths.join());
    const modules = join(folder, "node_modules");
    mkdirSync(join(modules, "@naq/client"), { recursive: true });
    execFileSync("tar", ["-xzf", join(folder, filename), "-C", join(modules, "@naq/client"), "--strip-components=1"]);
    // its dependencies, which npm would install
    for (const name of ["@nats-io", "smol-toml"]) symlinkSync(join(ROOT, "node_modules", name), join(modules, name));
    const program = 'import { Naq } from "@naq/client"; import { startWorker } from "@naq/client/testing"; console.log(typeof Naq.connect, typeof startWorker);';
    const done = spawnSync(process.execPath, ["--input-type=module", "-e", program], { cwd: folder, encoding: "utf8" });
    assert.equal(done.stdout, "function function\n", done.stderr);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("the examples of the README run", () => {
  const blocks = [...readFileSync(join(ROOT, "README.md"), "utf8").matchAll(/^```ts run\n(.*?)^```/gms)].map((block) => block[1]);
  assert(blocks.length >= 5);
  for (const [index, block] of blocks.entries()) {
    // in the package's folder, so that it finds the package
    const file = join(ROOT, `dist/readme-${index}.mjs`);
    const imports = block.match(/^import .*\n/gm) ?? [];
    const has = (name) => imports.some((line) => line.includes(`{ ${name}`));
    const head = `${has("Naq") ? "" : 'import { Naq } from "@naq/client";\n'}${imports.join("")}`;
    const body = block.replace(/^import .*\n/gm, "").replace("await using naq", "const naq");
    const opened = body.includes("Naq.connect(") ? body : `const naq = await Naq.connect();\n${body}`;
    writeFileSync(file, `${head}${opened}\nawait naq.close();\n`);
    try {
      const done = spawnSync(process.execPath, [file], { encoding: "utf8", timeout: 60_000 });
      assert.equal(done.status, 0, `${block}\n${done.stdout}\n${done.stderr}\n${used.worker.log()}`);
    } finally {
      rmSync(file);
    }
  }
});

test("the other examples parse as TypeScript", () => {
  for (const page of ["README.md", "../../docs/producers.md", "../../docs/from-bullmq.md"]) {
    const blocks = [...readFileSync(join(ROOT, page), "utf8").matchAll(/^```ts\n(.*?)^```/gms)].map((block) => block[1]);
    assert(blocks.length > 0, page);
    for (const block of blocks) {
      const options = { reportDiagnostics: true, compilerOptions: { module: "esnext", target: "esnext" } };
      const { diagnostics } = typescript.transpileModule(block, options);
      assert.deepEqual(diagnostics.map((one) => one.messageText), [], block);
    }
  }
});

test("the processor of the page for those who come from BullMQ runs as a function", async () => {
  const page = readFileSync(join(ROOT, "../../docs/from-bullmq.md"), "utf8");
  const processor = /^```js\n(.*?)^```/ms.exec(page)[1];
  const producer = /^```ts\n(.*?)^```/ms.exec(page)[1];
  assert.match(producer, /naq\.job\("\.\/resize\.mjs:default", /);
  assert.match(producer, /\.enqueue\(\{ data: \{ url, width: 200 \} \}\)/);
  // in the package's folder, so that it finds the package
  const folder = mkdtempSync(join(ROOT, "dist/page-"));
  try {
    writeFileSync(join(folder, "resize.mjs"), processor);
    const resize = used.naq.job("./resize.mjs:default", { cwd: folder, timeout: "1m" });
    const job = await resize.enqueue({ data: { url: "a", width: 200 } });
    assert.deepEqual(await job.result({ timeout: "30s" }), { path: "200/a" });
    assert.equal((await job.status()).progress.percent, 40);
    await runsInTheWorkerOfThePage(page, folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** Starts the worker that the page shows, in the folder of the module, and waits until a job runs in its warm process. */
async function runsInTheWorkerOfThePage(page, folder) {
  const [program, ...words] = /^(naq worker img .*?) +#/m.exec(page)[1].split(" ");
  assert.equal(program, "naq");
  const worker = spawn(process.env.NAQ_PROGRAM ?? program, words, { cwd: folder, stdio: "ignore" });
  const ended = new Promise((resolve, reject) => {
    worker.once("exit", resolve);
    worker.once("error", reject);
  });
  try {
    const resize = used.naq.job("./resize.mjs:default", { queue: "img", timeout: "1m" });
    await eventually(async () => {
      const job = await resize.enqueue({ data: { url: "b", width: 300 } });
      assert.deepEqual(await job.result({ timeout: "30s" }), { path: "300/b" });
      // until a warm process is ready, a job runs in one of its own, with a warning
      return ((await job.status()).warnings ?? []).length === 0;
    });
  } finally {
    worker.kill();
  }
  assert.equal(await ended, 0);
}
