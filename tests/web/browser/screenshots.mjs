// Makes the screenshots in docs/screenshots: `just screenshots`. Starts `naq dev` and two workers in a folder of its
// own, enqueues jobs as a team might, and opens every page, light and dark, wide and narrow.
//
// Arguments: the program naq, the folder of the screenshots, and the browser, which is `chromium` by default.
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

const [naqGiven, folderGiven, program = "/usr/bin/chromium"] = process.argv.slice(2);
const naq = resolve(naqGiven);
const folder = resolve(folderGiven);
const home = mkdtempSync(join(tmpdir(), "naq-screenshots-"));
const work = join(home, "work");
mkdirSync(work);
const env = { PATH: `${work}:${process.env.PATH}`, HOME: home, LANG: "C.UTF-8", NAQ_ALLOW_ROOT: "1" };

/** What jobs run. Each prints as its namesake does, and takes less time. */
const programs = {
  "deploy.sh": `echo "$ kubectl set image deployment/shop shop=registry/shop:$1"
printf '\\033[32mdeployment.apps/shop image updated\\033[0m\\n'
for i in 1 2 3 4; do echo "Waiting for rollout to finish: $i of 4 updated replicas are available..."; sleep 0.2; done
printf '\\033[1;32mdeployment "shop" successfully rolled out\\033[0m\\n'`,
  "build.sh": `printf '\\033[1m==> Compiling %s\\033[0m\\n' "$1"
for crate in base64 bytes futures hyper serde tokio tracing shop-core shop-web; do
  printf '   \\033[1;32mCompiling\\033[0m %s\\n' "$crate"; sleep 0.1; done
printf '\\033[33mwarning\\033[0m: unused variable: \`total\`\\n --> src/cart.rs:118:9\\n' >&2
printf '    \\033[1;32mFinished\\033[0m release [optimized] in 1.1s\\n'`,
  "test.sh": `echo "running 148 tests"
for i in 1 2 3; do echo "test cart::tests::total_$i ... ok"; sleep 0.05; done
printf 'test payment::tests::refund ... \\033[31mFAILED\\033[0m\\n'
echo "thread 'payment::tests::refund' panicked at src/payment.rs:$(( $$ % 400 )):9:" >&2
echo "assertion failed: refund of order $(( $$ % 9000 )) is pending" >&2
exit 101`,
  "send-mail": `echo "connecting to smtp.example.com:587"; sleep 0.05
case $2 in bounce) echo "550 5.1.1 <customer-$$@example.org>: Recipient address rejected" >&2; exit 69;; esac
echo "250 2.0.0 Ok: queued"`,
  "transcode.sh": `for i in $(seq 0 600); do echo "frame=$((i * 24)) fps=48 size=$((i * 1024))kB time=$i bitrate=1842.1kbits/s"; sleep 1; done`,
  "report.py": `echo "reading 48,210 orders"; sleep 0.3; echo "writing report-2030-12.pdf"`,
  "backup.sh": `for table in customers orders items payments; do echo "dump $table"; sleep 0.1; done
[ "$1" = full ] && { echo "pg_dump: error: connection to server at \\"db-2\\" failed: Connection refused" >&2; exit 1; }
echo "uploaded 4 files, 812 MiB"`,
};
for (const [name, text] of Object.entries(programs)) {
  writeFileSync(join(work, name), `#!/bin/sh\n${text}\n`);
  chmodSync(join(work, name), 0o755);
}

const run = (...words) => {
  const { status, stdout, stderr } = spawnSync(naq, words, { env, cwd: work, encoding: "utf8" });
  if (status !== 0) throw new Error(`naq ${words.join(" ")}: ${stderr}`);
  return stdout;
};
const started = [];
const start = (words, until) =>
  new Promise((then, not) => {
    const process = spawn(naq, words, { env, cwd: work });
    started.push(process);
    let text = "";
    process.stderr.on("data", (part) => {
      text += part;
      const found = until.exec(text);
      if (found) then(found[1]);
    });
    process.on("exit", (status) => not(new Error(`naq ${words.join(" ")} ended with ${status}: ${text}`)));
  });
const pause = (ms) => new Promise((then) => setTimeout(then, ms));
const stop = async () => {
  const ends = started.map((process) => new Promise((then) => process.on("exit", then)));
  for (const process of started) process.removeAllListeners("exit").kill("SIGTERM");
  await Promise.race([Promise.all(ends), pause(5000)]);
  for (const process of started) process.kill("SIGKILL");
  rmSync(home, { recursive: true, force: true });
};

/** How long jobs come before the first screenshot, in milliseconds. */
const FILL_MS = 100_000;

let feeding = 0;
try {
  const dev = ["dev", "build", "mail", "--concurrency", "4", "--name", "builder-1", "--quiet"];
  const login = await start(dev, /dashboard {2}(\S+)[^]*stop {7}Ctrl-C/);
  const worker = ["worker", "video", "--concurrency", "2", "--name", "gpu-1", "--label", "gpu=a100"];
  await start(worker, /(worker|ready|serves)/);
  await fill(login);
  await takeAll(login);
} finally {
  clearInterval(feeding);
  await stop();
}

/** Enqueues jobs, and waits until most of them have ended. Then a few more come every second. */
async function fill(login) {
  run("schedule", "--name", "health", "-q", "build", "--every", "5s", "--", "true");
  run("schedule", "--name", "nightly-backup", "-q", "build", "--cron", "30 2 * * *", "--tz", "Europe/Berlin", "--", "backup.sh", "incremental");
  run("schedule", "--name", "weekly-report", "-q", "reports", "--cron", "0 7 * * 1", "--tz", "America/New_York", "--", "report.py", "--weekly");
  run("schedule", "--name", "cleanup", "-q", "build", "--cron", "0 4 1 * *", "--", "backup.sh", "prune");
  run("schedule", "pause", "cleanup");
  run("queue", "add", "reports", "--max-running", "2");
  const token = readFileSync(join(home, ".local/share/naq/dashboard.token"), "utf8").trim();
  const post = async (path, body) => {
    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    const sent = await fetch(new URL(path, login), { method: "POST", headers, body: JSON.stringify(body) });
    if (!sent.ok) throw new Error(`${path}: ${await sent.text()}`);
  };
  const enqueue = (queue, job_id, [command, ...args], more = {}, query = "") =>
    post(`api/queues/${queue}/jobs${query}`, { job_id, command, args, ...more });
  const shop = { labels: { team: "shop" } };
  const build = async (version) => {
    const secret = { ...shop, env: { REGISTRY_TOKEN: "secret" }, timeout: "15m", max_retries: 1 };
    await enqueue("build", `build-shop-${version}`, ["build.sh", "shop"], secret);
    const after = { labels: { team: "shop", env: "staging" }, depends_on: [`build-shop-${version}`] };
    await enqueue("build", `deploy-shop-${version}`, ["deploy.sh", version], after);
    await enqueue("build", `test-shop-${version}`, ["test.sh"], shop);
  };
  for (const id of ["trailer", "interview", "keynote"]) await enqueue("video", `transcode-${id}`, ["transcode.sh", `${id}.mov`], { labels: { team: "media" } });
  for (const month of ["october", "november"]) await enqueue("reports", `report-${month}`, ["report.py", "--month", month], { labels: { team: "finance" } });
  await enqueue("reports", "report-december", ["report.py", "--month", "december"], { labels: { team: "finance" } }, "?in=3d");
  await enqueue("build", "backup-full", ["backup.sh", "full"], { max_retries: 1 });
  for (const version of ["1-8-2", "1-8-3", "1-9-0"]) await build(version);
  const after = (command, ...depends_on) => ({ command, ...(depends_on.length ? { depends_on } : {}) });
  const jobs = {
    fetch: after("report.py"),
    parse: after("true", "fetch"),
    train: after("true", "parse"),
    check: after("true", "parse"),
    publish: after("transcode.sh", "train", "check"),
  };
  await post("api/flows?queue=build&name=forecast", { jobs });
  let customer = 1000;
  const feed = async () => {
    customer++;
    const args = ["send-mail", `customer-${customer}`, ...(customer % 11 ? [] : ["bounce"])];
    await enqueue("mail", `newsletter-${customer}`, args, { labels: { campaign: "december" } });
    if (customer % 6 === 0) await build(`1-9-${(customer - 1000) / 6}`);
    if (customer % 8 === 0) await enqueue("build", `backup-${customer}`, ["backup.sh", customer % 16 ? "incremental" : "full"]);
  };
  feeding = setInterval(() => feed().catch(() => {}), 1000);
  await pause(FILL_MS);
}

/** The pages: their names and paths. */
function pages() {
  return [
    ["overview", ""],
    ["jobs", "jobs"],
    ["job", "jobs/build-shop-1-9-0"],
    ["job-running", "jobs/transcode-trailer"],
    ["job-failed", "jobs/test-shop-1-9-0"],
    ["flow", "flows/forecast"],
    ["failed", "failed"],
    ["schedules", "schedules"],
    ["schedule", "schedules/health"],
    ["workers", "workers"],
    ["audit", "audit"],
    ["kiosk", "?kiosk"],
  ];
}

async function takeAll(login) {
  mkdirSync(folder, { recursive: true });
  const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(login);
  const root = new URL("./", page.url());
  const devtools = await context.newCDPSession(page);
  const take = async (name) => {
    const { data } = await devtools.send("Page.captureScreenshot", { format: "webp", quality: 80 });
    writeFileSync(join(folder, `${name}.webp`), Buffer.from(data, "base64"));
  };
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    for (const [width, height] of [[1280, 800], [400, 800]]) {
      await page.setViewportSize({ width, height });
      for (const [name, path] of pages()) {
        await page.goto(new URL(path, root).href);
        await page.waitForFunction(() => !document.querySelector("[data-live]") || document.querySelector('[data-state="live"]'));
        await pause(name === "job-running" ? 1500 : 300);
        await take(`${name}-${colorScheme}-${width}`);
      }
      await page.goto(new URL("jobs", root).href);
      await page.keyboard.press("Control+k");
      await page.keyboard.type("shop");
      await page.getByRole("option", { name: /deploy-shop/ }).first().waitFor();
      await take(`palette-${colorScheme}-${width}`);
    }
  }
  await browser.close();
}
