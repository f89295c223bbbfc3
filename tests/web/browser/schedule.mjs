// Looks at the pages of schedules in a real browser, as `tests/web/browser.rs` asks. Arguments: the program of the
// browser, and the address that logs in. Prints a line for each step; the test acts between them. Exits with 1 if
// something is wrong.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [program, login] = process.argv.slice(2);
const wrong = [];
const expect = (holds, what) => holds || wrong.push(what);

// Root has no sandbox, and a container little shared memory.
const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, timezoneId: "Asia/Kolkata" });
const page = await context.newPage();
// a violation of the policy is an error on the console, as is an answer that refuses what the script sends
page.on("console", (message) => {
  const isRefusal = /Failed to load resource/.test(message.text());
  if (message.type() === "error" && !isRefusal) wrong.push(`console: ${message.text()}`);
});
page.on("pageerror", (error) => wrong.push(`script: ${error.message}`));
await page.goto(login);
const root = new URL("./", page.url());
const own = await page.evaluate(() => Intl.DateTimeFormat().resolvedOptions().timeZone);

// A schedule is created by the form.
await page.getByRole("link", { name: "Schedules", exact: true }).click();
await page.getByRole("link", { name: "New schedule" }).click();
await page.getByLabel("Name").fill("nightly");
await page.getByLabel("Queue").fill("build");
await page.getByLabel("Envelope of each job").fill('{"command": "echo", "args": ["<img src=x onerror=alert(1)>"]}');
await page.getByLabel("Cron expression").fill("61 3 * * *");
await page.getByLabel("Time zone of the expression").fill("Europe/Berlin");
await page.getByRole("button", { name: "Create the schedule" }).click();
expect((await page.getByLabel("Queue").inputValue()) === "build", "what was typed is lost");
await page.getByLabel("Cron expression").fill("30 3 * * *");
await page.getByRole("button", { name: "Create the schedule" }).click();
await page.getByText("The schedule is saved.").waitFor();
// its next ticks are in its own zone, and in that of the viewer
const tick = page.locator('[aria-label="Next ticks"] tbody tr').first();
expect((await tick.textContent()).includes("03:30:00 +0"), `in the zone of the schedule: ${await tick.textContent()}`);
const local = () => tick.locator("time").textContent();
expect(/ 0[78]:00:00 \+05:30$/.test(await local()), `in the zone of the viewer: ${await local()}`);
const zones = page.getByLabel("Times");
expect((await zones.locator("option").first().textContent()) === own, "the switch does not name the zone of the viewer");
for (const [choice, name, time] of [
  ["utc", "UTC", / 0[12]:30:00 UTC$/],
  ["schedule", "Europe/Berlin", / 03:30:00 \+0[12]:00$/],
]) {
  await zones.selectOption(choice);
  expect(time.test(await local()), `in the zone ${choice}: ${await local()}`);
  const named = await page.locator("th[data-zone-name]").textContent();
  expect(named === name, `${choice}: the column is called ${named}`);
  expect((await tick.textContent()).includes("03:30:00 +0"), "the column of the schedule has another zone");
}
// other pages use it too, and texts, titles and exports
await page.goto(new URL("audit", root).href);
expect((await zones.inputValue()) === "schedule", "the selection is not kept");
const entry = page.locator("main time").first();
expect((await entry.textContent()).endsWith("+05:30"), `no schedule, so the viewer's zone: ${await entry.textContent()}`);
expect((await entry.getAttribute("title")).endsWith("+05:30"), await entry.getAttribute("title"));
await zones.selectOption("own");
await page.goto(new URL("schedules/nightly", root).href);
console.log("created");

// Its runs of two days are shown, and then enqueued.
await page.getByLabel("From").fill("2025-03-28T00:00");
await page.getByLabel("To, not included").fill("2025-03-30T00:00");
await page.getByRole("button", { name: "Show the runs" }).click();
await page.getByRole("button", { name: "Enqueue 2 jobs" }).click();
await page.getByText("2 jobs enqueued.").waitFor();
const schedule = page.url();
await page.goto(new URL("jobs?q=queue:build", root).href);
const csv = page.getByRole("link", { name: "CSV" });
const exported = async () => (await page.request.get(await csv.evaluate((link) => link.href))).text();
expect((await exported()).includes("+05:30,"), `the export is not in the viewer's zone: ${await exported()}`);
await zones.selectOption("utc");
expect(/T[0-9:.]+Z,/.test(await exported()), `the export is not in UTC: ${await exported()}`);
// another page of the browser, and a page that updates itself, follow the switch
const other = await context.newPage();
await other.goto(new URL("jobs", root).href);
const known = other.locator("main time[title]").first();
expect((await known.getAttribute("title")).endsWith(" UTC"), await known.getAttribute("title"));
await zones.selectOption("own");
await other.waitForFunction(() => document.querySelector("main time[title]").title.endsWith("+05:30"));
await other.close();
await page.goto(schedule);
console.log("backfilled");

// The test lets schedules have runs, in every state, before the pages are looked at.
await page.goto(new URL("schedules/beat", root).href);
await page.waitForFunction(async () => {
  const text = await (await fetch(location.href)).text();
  return (text.match(/<li><a class="bad"/g) ?? []).length >= 3;
});
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
// axe-core injects its script, so this context ignores the policy that the pages above were under.
const looked = await browser.newContext({ bypassCSP: true, storageState: await context.storageState() });
const look = await looked.newPage();
const preview = "schedules/nightly?from=2025-03-28T00%3A00&to=2025-04-30T00%3A00&limit=20";
const folder = process.env.SCREENSHOTS;
for (const colorScheme of ["light", "dark"]) {
  await look.emulateMedia({ colorScheme });
  for (const [at, path] of ["schedules", "schedules/beat", preview, "schedules/nightly/edit", "create/schedule", "workers"].entries()) {
    for (const width of [1280, 400]) {
      await look.setViewportSize({ width, height: 900 });
      await look.goto(new URL(path, root).href);
      for (const summary of await look.locator("details > summary").all()) await summary.click();
      await look.evaluate(axe);
      const { violations } = await look.evaluate(() => axe.run());
      for (const { id, impact, nodes } of violations) {
        if (["serious", "critical"].includes(impact)) {
          wrong.push(`${path}, ${colorScheme}, ${width}: ${id}: ${nodes[0].html.slice(0, 200)}`);
        }
      }
      const overflow = await look.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(overflow <= 0, `${path} is ${overflow} pixels wider than a page of ${width}`);
      if (folder) await look.screenshot({ path: `${folder}/${at}-${colorScheme}-${width}.png`, fullPage: true });
    }
  }
}

// Without scripts the schedule is deleted too.
const still = await browser.newContext({ javaScriptEnabled: false, storageState: await context.storageState() });
const plain = await still.newPage();
await plain.goto(new URL("schedules/nightly", root).href);
await plain.getByText("Delete the schedule").click();
await plain.getByLabel("Type nightly to confirm").fill("nightly");
await plain.getByRole("button", { name: "Delete nightly" }).click();
await plain.getByText("The schedule `nightly` is deleted.").waitFor();
await browser.close();

for (const one of wrong) console.log(`wrong: ${one}`);
console.log(wrong.length === 0 ? "good" : "bad");
process.exit(wrong.length === 0 ? 0 : 1);
