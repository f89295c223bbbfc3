// Retries a group of failed jobs, undoes that, and cancels selected jobs, as `tests/web/browser.rs` asks. Arguments:
// the program of the browser, and the address that logs in. Prints a line for each step. Exits with 1 if something
// is wrong.
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
const home = page.url();

// The group is retried by its button; the page of the action shows how it proceeds, and its undo.
await page.getByRole("link", { name: "Failed", exact: true }).click();
await page.getByRole("button", { name: "Retry 3 jobs with this cause" }).click();
const becomes = (state) => page.waitForFunction((state) => document.getElementById("action-state")?.textContent === state, state);
await becomes("done");
const action = page.url();
expect((await page.locator("#action-counts").textContent()).includes("Enqueued again3"), "not three jobs are enqueued");
console.log("retried");

// The undo leads to the same page.
await page.getByRole("button", { name: "Undo" }).click();
await becomes("undone");
expect(page.url() === action, `the undo leads to ${page.url()}`);
expect((await page.locator("#action-counts").textContent()).includes("Restored3"), "not three jobs are restored");
expect((await page.getByRole("button", { name: "Undo" }).count()) === 0, "the undo is offered again");
await page.getByRole("link", { name: "Failed", exact: true }).click();
expect((await page.textContent("main")).includes("3 failed jobs"), "the failed jobs are not listed again");
console.log("undone");

// Selected jobs lead to a page that shows what would be done. None of the failed ones can be cancelled.
await page.goto(new URL("jobs?q=state:failed", home).href);
const boxes = page.getByRole("checkbox");
expect((await boxes.count()) === 3, `${await boxes.count()} check boxes`);
await boxes.first().check();
await page.getByRole("button", { name: "Cancel selected" }).click();
expect((await page.textContent("main")).includes("None of the selected jobs"), "an ended job can be cancelled");
console.log("cancelled");

// axe-core injects its script, so this context ignores the policy that the pages above were under.
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const looked = await browser.newContext({ bypassCSP: true, storageState: await context.storageState() });
const look = await looked.newPage();
const paths = [action, "failed", "jobs", "actions", "actions/new?action=retry&q=state:failed"];
for (const colorScheme of ["light", "dark"]) {
  await look.emulateMedia({ colorScheme });
  for (const path of paths) {
    for (const width of [1280, 400]) {
      await look.setViewportSize({ width, height: 900 });
      await look.goto(new URL(path, home).href);
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
}
await browser.close();

for (const one of wrong) console.log(`wrong: ${one}`);
console.log(wrong.length === 0 ? "good" : "bad");
process.exit(wrong.length === 0 ? 0 : 1);
