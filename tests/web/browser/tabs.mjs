// Opens ten pages in a real browser, as `tests/web/browser.rs` asks. Arguments: the program of the browser, and the
// address that logs in. Prints a line for each step; the test acts between them. Exits with 1 if something is wrong.
import { chromium } from "playwright-core";

const [program, login] = process.argv.slice(2);
const wrong = [];
const expect = (holds, what) => holds || wrong.push(what);

// Root has no sandbox, and a container little shared memory.
const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const open = async (of, address) => {
  const page = await of.newPage();
  // a violation of the policy is an error on the console
  page.on("console", (message) => {
    const isAway = /Failed to load resource|net::ERR/.test(message.text());
    if (message.type() === "error" && !isAway) wrong.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => wrong.push(`script: ${error.message}`));
  await page.goto(address);
  return page;
};
const isIn = (page, state) =>
  page.waitForFunction((state) => document.getElementById("live-state")?.dataset.state === state, state);
const first = await open(context, login);
const root = new URL("./", first.url());
const metrics = async () => {
  const text = await (await fetch(new URL("metrics", root))).text();
  return Number(text.match(/^naq_live_clients (\S+)$/m)[1]);
};
const clientsAre = async (number, when) => {
  for (const until = Date.now() + 20_000; Date.now() < until; ) {
    if ((await metrics()) === number) return;
    await new Promise((then) => setTimeout(then, 50));
  }
  expect(false, `${when}: ${await metrics()} streams are open instead of ${number}`);
};

// Ten pages of one browser, of different things, have one stream.
const overviews = [first];
for (let i = 0; i < 6; i++) overviews.push(await open(context, root.href));
const jobs = [];
for (let i = 0; i < 2; i++) jobs.push(await open(context, new URL("jobs/talks", root).href));
const flow = await open(context, new URL("flows/night", root).href);
await Promise.all([...overviews, ...jobs, flow].map((page) => isIn(page, "live")));
await clientsAre(1, "ten pages");
console.log("ten");

// The test enqueues a job, which each overview shows; both pages of a job have its whole output.
await Promise.all(overviews.map((page) => page.waitForSelector("#job-seen")));
const lines = (page) => page.locator("#live-output .line").allTextContents();
for (const page of jobs) {
  await page.waitForFunction(() => document.querySelectorAll("#live-output .line").length > 20);
  expect((await lines(page)).slice(0, 3).join() === "line 1,line 2,line 3", `output: ${(await lines(page)).slice(0, 3)}`);
}
// A page that opens does not disturb the others.
await jobs[0].evaluate(() => (document.querySelector("#live-output .line").dataset.mark = "kept"));
const third = await open(context, new URL("jobs/talks", root).href);
await third.waitForFunction(() => document.querySelectorAll("#live-output .line").length > 20);
expect((await jobs[0].locator('[data-mark="kept"]').count()) === 1, "the output of an open page began again");
await third.close();

// The job of two pages ends, and the other pages stay live.
await jobs[0].getByRole("button", { name: "Cancel" }).click();
await jobs[1].waitForSelector("#stdout");
console.log("seen");
await overviews[1].waitForSelector("#job-again");
await clientsAre(1, "a job has ended");

// The dashboard comes back with other tokens, so each page says that the session has ended.
console.log("away");
await Promise.all([...overviews, flow].map((page) => isIn(page, "out")));
await first.getByRole("link", { name: "Log in" }).waitFor();
await clientsAre(0, "without a session");
console.log("out");

// Whoever logs in on one page has the others live again. Pages that close leave the stream, and the last one ends it.
process.stdin.setEncoding("utf8");
const token = (await new Promise((then) => process.stdin.once("data", then))).trim();
const logIn = async () => {
  await first.goto(new URL("login", root).href);
  await first.getByLabel("Token").fill(token);
  await first.getByRole("button", { name: "Log in" }).click();
};
await logIn();
await Promise.all([...overviews, flow].map((page) => isIn(page, "live")));
expect((await flow.locator("#logged-out").count()) === 0, "a page still says that the session has ended");
await clientsAre(1, "after another login");
// a logout reaches them too
await flow.getByRole("button", { name: "Log out" }).click();
await Promise.all(overviews.map((page) => isIn(page, "out")));
await clientsAre(0, "after a logout");
await logIn();
await Promise.all(overviews.map((page) => isIn(page, "live")));
for (const page of overviews.slice(1)) await page.close();
await clientsAre(1, "one page is left");
await first.goto("about:blank");
await clientsAre(0, "no page is left");

// Without shared workers each visible page has its own stream.
const old = await browser.newContext({ storageState: await context.storageState() });
await old.addInitScript(() => delete globalThis.SharedWorker);
// What a proxy answers while the dashboard restarts ends a stream for good, unless the page opens another one.
let requests = 0;
await old.route("**/live?*", (route) => (requests++ === 0 ? route.fulfill({ status: 502, body: "" }) : route.continue()));
const alone = await open(old, root.href);
await isIn(alone, "live");
expect(requests === 2, `the stream was opened ${requests} times`);
const other = await open(old, root.href);
await isIn(other, "live");
await clientsAre(2, "two pages without a worker");
const turn = (page, hidden) =>
  page.evaluate((value) => {
    Object.defineProperty(document, "hidden", { value, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
await turn(other, true);
expect((await other.textContent("#live-state")) === "paused", await other.textContent("#live-state"));
await clientsAre(1, "a hidden page without a worker");
await turn(other, false);
await isIn(other, "live");
await browser.close();

for (const one of wrong) console.log(`wrong: ${one}`);
console.log(wrong.length === 0 ? "good" : "bad");
process.exit(wrong.length === 0 ? 0 : 1);
