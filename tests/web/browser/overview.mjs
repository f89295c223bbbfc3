// Looks at the overview in a real browser, as `tests/web/browser.rs` asks. Arguments: the program of the
// browser, the address that logs in, and the address of the second login. Prints a line for each step; the test
// acts between them. Exits with 1 if something is wrong.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [program, login, secondLogin] = process.argv.slice(2);
const wrong = [];
const expect = (holds, what) => holds || wrong.push(what);

// Root has no sandbox, and a container little shared memory.
const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const page = await context.newPage();
// a violation of the policy is an error on the console
page.on("console", (message) => {
  const isAway = /Failed to load resource|net::ERR/.test(message.text());
  if (message.type() === "error" && !isAway) wrong.push(`console: ${message.text()}`);
});
page.on("pageerror", (error) => wrong.push(`script: ${error.message}`));
page.on("dialog", (dialog) => {
  wrong.push(`a dialog: ${dialog.message()}`);
  dialog.dismiss();
});

const isLive = () => page.waitForFunction(() => document.getElementById("live-state").dataset.state === "live");
await page.goto(login);
expect(page.url().endsWith("/"), `the code stays in the address: ${page.url()}`);
await isLive();
console.log("live");

// The test enqueues a job, which appears without a reload, and keeps what the user has selected.
await page.evaluate(() => {
  document.getElementById("queues").dataset.mark = "kept";
  getSelection().selectAllChildren(document.querySelector("#queues h2"));
});
await page.waitForSelector("#job-seen");
expect(await page.evaluate(() => document.getElementById("queues").dataset.mark === "kept"), "the page was replaced");
expect(await page.evaluate(() => getSelection().toString() === "Queues"), "the selection was lost");
const command = await page.textContent("#job-seen .command");
expect(command.includes("<img src=x onerror=alert(1)>"), `the command is ${command}`);
console.log("seen");

// The test stops the dashboard and starts it at the same port.
await page.waitForFunction(() => document.getElementById("live-state").dataset.state === "away");
console.log("away");
await isLive();
console.log("back");

// axe-core injects its script, so this context ignores the policy that the pages above were under.
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const looked = await browser.newContext({ bypassCSP: true, storageState: await context.storageState() });
const look = await looked.newPage();
if (secondLogin) await look.goto(secondLogin);
for (const colorScheme of ["light", "dark"]) {
  await look.emulateMedia({ colorScheme });
  for (const [width, path] of [[1280, ""], [400, ""], [1280, "login"], ...["failed", "failed/jobs", "schedules", "workers", "audit", "actions"].flatMap((path) => [[1280, path], [400, path]])]) {
    await look.setViewportSize({ width, height: 900 });
    await look.goto(new URL(path, new URL("./", page.url())).href);
    await look.evaluate(axe);
    const { violations } = await look.evaluate(() => axe.run());
    for (const { id, impact, nodes } of violations) {
      if (["serious", "critical"].includes(impact)) {
        wrong.push(`${path || "overview"}, ${colorScheme}, ${width}: ${id}: ${nodes[0].html.slice(0, 200)}`);
      }
    }
    const overflow = await look.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(overflow <= 0, `${path || "overview"} is ${overflow} pixels wider than a page of ${width}`);
  }
}

// Without scripts the page shows the same.
const plain = await browser.newContext({ javaScriptEnabled: false, storageState: await context.storageState() });
const still = await plain.newPage();
await still.goto(page.url());
expect((await still.locator("#job-seen").count()) === 1, "the page without scripts lacks the job");
await browser.close();

for (const one of wrong) console.log(`wrong: ${one}`);
console.log(wrong.length === 0 ? "good" : "bad");
process.exit(wrong.length === 0 ? 0 : 1);
