// Looks at the pages of jobs in a real browser, as `tests/web/browser.rs` asks. Arguments: the program of the
// browser, and the address that logs in. Prints a line for each step; the test acts between them. Exits with 1 if
// something is wrong.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [program, login] = process.argv.slice(2);
const wrong = [];
const expect = (holds, what) => holds || wrong.push(what);

// Root has no sandbox, and a container little shared memory.
const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const page = await context.newPage();
// a violation of the policy is an error on the console
page.on("console", (message) => message.type() === "error" && wrong.push(`console: ${message.text()}`));
page.on("pageerror", (error) => wrong.push(`script: ${error.message}`));
page.on("dialog", (dialog) => {
  wrong.push(`a dialog: ${dialog.message()}`);
  dialog.dismiss();
});
await page.goto(login);

// The header names this dashboard, and leads to another one.
const staging = page.getByRole("link", { name: "staging" });
expect((await staging.count()) === 0, "the menu of dashboards is open");
await page.locator(".boards summary").click();
expect((await staging.getAttribute("href")) === "https://staging.example.com/naq", "no way to the other dashboard");
await page.locator(".boards summary").click();

// The list leads to the job, by its filter.
await page.getByRole("link", { name: "Jobs", exact: true }).click();
await page.getByRole("searchbox").fill("state:running queue:build");
await page.getByRole("button", { name: "Filter" }).click();
expect(page.url().includes("q=state%3Arunning"), `the filter is not in the address: ${page.url()}`);
await page.getByRole("link", { name: "talks" }).click();

// Output arrives, and the page stays at its end until the reader scrolls up.
const log = page.locator("#live-output");
const lines = () => log.locator(".line").count();
await page.waitForFunction(() => document.querySelectorAll("#live-output .line").length > 100);
const isAtEnd = () => log.evaluate((log) => log.scrollHeight - log.scrollTop - log.clientHeight < 24);
expect(await isAtEnd(), "the page is not at the end of the output");
expect((await log.textContent()).includes("<img src=x onerror=alert(1)>"), "hostile output is not shown as text");
expect((await log.locator(".fg2").count()) > 0, "the output has no colour");
await log.evaluate((log) => (log.scrollTop = 0));
const before = await lines();
await page.waitForFunction((before) => document.querySelectorAll("#live-output .line").length > before, before);
expect(await log.evaluate((log) => log.scrollTop === 0), "the page follows although the reader has scrolled up");
await page.getByRole("button", { name: "Jump to the end" }).click();
await page.waitForFunction(() => document.getElementById("live-jump").hidden);
console.log("followed");

// The job is cancelled by its button; the page then shows the whole output.
await page.getByRole("button", { name: "Cancel" }).click();
await page.waitForSelector("#stdout");
expect((await page.textContent("#job-state")).startsWith("cancelled"), await page.textContent("#job-state"));
expect((await page.locator("#live-output").count()) === 0, "the live output is still there");
await page.getByRole("button", { name: "Run again" }).waitFor();
console.log("ended");

// The attempts of a job that has failed twice are listed, and compared side by side.
const root = new URL("../", page.url());
await page.goto(new URL("jobs/twice", root).href);
expect((await page.locator("#job-attempts tbody tr").count()) === 2, "the page does not list two attempts");
await page.getByRole("link", { name: "Compare" }).click();
expect(page.url().endsWith("/jobs/twice/attempts"), `not the page of attempts: ${page.url()}`);
const compared = await page.locator("main").textContent();
expect(compared.includes("<b>attempt</b> 1") && compared.includes("<b>attempt</b> 2"), "an output is missing");
expect((await page.locator("ins").count()) === 1 && (await page.locator("del").count()) === 1, "no difference is marked");
console.log("compared");

// axe-core injects its script, so this context ignores the policy that the pages above were under.
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const looked = await browser.newContext({ bypassCSP: true, storageState: await context.storageState() });
const look = await looked.newPage();
for (const colorScheme of ["light", "dark"]) {
  await look.emulateMedia({ colorScheme });
  const paths = ["jobs", "jobs/talks", "jobs/twice", "jobs/twice/attempts", "flows/night"];
  for (const [width, path] of paths.flatMap((path) => [[1280, path], [400, path]])) {
    await look.setViewportSize({ width, height: 900 });
    const answer = await look.goto(new URL(path, root).href);
    expect(answer.ok(), `${path}: ${answer.status()}`);
    await look.locator(".boards").evaluate((menu) => (menu.open = true));
    await look.evaluate(axe);
    const { violations } = await look.evaluate(() => axe.run());
    for (const { id, impact, nodes } of violations) {
      if (["serious", "critical"].includes(impact)) {
        wrong.push(`${path}, ${colorScheme}, ${width}: ${id}: ${nodes[0].html.slice(0, 200)}`);
      }
    }
    const overflow = await look.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(overflow <= 0, `${path} is ${overflow} pixels wider than a page of ${width}`);
  }
}
await browser.close();

for (const one of wrong) console.log(`wrong: ${one}`);
console.log(wrong.length === 0 ? "good" : "bad");
process.exit(wrong.length === 0 ? 0 : 1);
