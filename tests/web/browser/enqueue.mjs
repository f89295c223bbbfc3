// Enqueues a job by the form in a real browser, as `tests/web/browser.rs` asks. Arguments: the program of the
// browser, and the address that logs in. Prints a line for each step. Exits with 1 if something is wrong.
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
await page.goto(login);
await page.getByRole("link", { name: "Enqueue", exact: true }).click();

// What is wrong is shown while it is typed, and what is right too.
const check = page.locator("#check");
await page.getByLabel("Queue").fill("build");
await page.getByLabel("Command", { exact: false }).first().fill("sh -c 'echo <b>one</b>");
await check.getByText("a quote has no end").waitFor();
await page.getByLabel("Command", { exact: false }).first().fill("sh -c 'echo \"<b>one</b>\"; sleep 1; echo two'");
await check.getByRole("heading", { name: "Valid", exact: true }).waitFor();
await page.getByLabel("Labels").fill("team=x");
await check.getByText('"labels": {"team":"x"}').waitFor();
await page.getByLabel("Timeout").fill("soon");
await check.getByText("timeout", { exact: true }).waitFor();
expect((await check.textContent()).includes("Not valid"), "a wrong timeout is not refused");
await page.getByLabel("Timeout").fill("1m");
await check.getByRole("heading", { name: "Valid", exact: true }).waitFor();
console.log("checked");

// The button leads to the page of the job, where its output arrives.
await page.getByRole("button", { name: "Enqueue" }).click();
await page.waitForURL(/\/jobs\//);
await page.waitForSelector("#stdout .row");
const output = await page.textContent("#stdout .log");
expect(output.includes("<b>one</b>") && output.includes("two"), `not the output: ${output}`);

// Editing it shows what differs.
await page.getByRole("link", { name: "Edit and run again" }).click();
await check.getByText("Nothing is changed.").waitFor();
await page.getByLabel("Command", { exact: false }).first().fill("sh -c 'echo three'");
await check.locator("ins").first().waitFor();
expect((await check.locator("del").count()) > 0, "the difference does not show what is removed");
await page.getByRole("button", { name: "Enqueue" }).click();
await page.waitForURL(/\/jobs\//);
await page.waitForSelector("#stdout .row");
expect((await page.textContent("#stdout .log")).includes("three"), "the edited job did not run");
console.log("edited");

// axe-core injects its script, so this context ignores the policy that the pages above were under.
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const looked = await browser.newContext({ bypassCSP: true, storageState: await context.storageState() });
const look = await looked.newPage();
for (const colorScheme of ["light", "dark"]) {
  await look.emulateMedia({ colorScheme });
  for (const width of [1280, 400]) {
    await look.setViewportSize({ width, height: 900 });
    await look.goto(new URL("../enqueue", page.url()).href);
    await look.getByLabel("Command", { exact: false }).first().fill("echo 'a");
    await look.locator("#check .problems").waitFor();
    await look.evaluate(axe);
    const { violations } = await look.evaluate(() => axe.run());
    for (const { id, impact, nodes } of violations) {
      if (["serious", "critical"].includes(impact)) {
        wrong.push(`${colorScheme}, ${width}: ${id}: ${nodes[0].html.slice(0, 200)}`);
      }
    }
    const overflow = await look.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(overflow <= 0, `the page is ${overflow} pixels wider than ${width}`);
  }
}
await browser.close();

for (const one of wrong) console.log(`wrong: ${one}`);
console.log(wrong.length === 0 ? "good" : "bad");
process.exit(wrong.length === 0 ? 0 : 1);
