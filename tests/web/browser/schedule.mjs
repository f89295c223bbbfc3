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
const local = await page.locator("time.local").first().textContent();
expect(/ 0[78]:00:00 /.test(local), `in the zone of the viewer: ${local}`);
expect((await page.getByRole("columnheader", { name: "Your time" }).count()) === 1, "no column for the viewer's time");
console.log("created");

// Its runs of two days are shown, and then enqueued.
await page.getByLabel("From").fill("2025-03-28T00:00");
await page.getByLabel("To, not included").fill("2025-03-30T00:00");
await page.getByRole("button", { name: "Show the runs" }).click();
await page.getByRole("button", { name: "Enqueue 2 jobs" }).click();
await page.getByText("2 jobs enqueued.").waitFor();
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
