// Uses the keyboard, the command palette and saved views in a real browser, as `tests/web/browser.rs` asks. Arguments:
// the program of the browser, and the address that logs in. Prints a line for each step. Exits with 1 if something is
// wrong.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [program, login] = process.argv.slice(2);
const wrong = [];
const expect = (holds, what) => holds || wrong.push(what);

// Root has no sandbox, and a container little shared memory.
const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const page = await context.newPage();
// a violation of the policy is an error on the console, as is an answer that refuses what the script sends
page.on("console", (message) => {
  const isRefusal = /Failed to load resource/.test(message.text());
  if (message.type() === "error" && !isRefusal) wrong.push(`console: ${message.text()}`);
});
page.on("pageerror", (error) => wrong.push(`script: ${error.message}`));
await page.goto(login);
const root = new URL("./", page.url());
const press = (...keys) => keys.reduce((before, key) => before.then(() => page.keyboard.press(key)), Promise.resolve());
const focused = () => page.evaluate(() => document.activeElement.textContent.trim());
const at = (path) => page.waitForURL(new URL(path, root).href);

// Letters open pages, and move between rows, whose links have the focus.
await press("g", "j");
await at("jobs");
await page.locator("#job-one").waitFor();
const rows = await page.locator("#jobs tbody th a").allTextContents();
await press("j");
expect((await focused()) === rows[0], `the first row is ${await focused()}`);
await press("j", "j", "k");
expect((await focused()) === rows[1], `the second row is ${await focused()}`);
await press("k", "k", "k");
expect((await focused()) === rows[0], `the first row again is ${await focused()}`);
if (await page.locator(".pick input").count()) {
  await press("x");
  expect(await page.locator(".pick input").first().isChecked(), "the row is not selected");
  await press("x");
  expect(!(await page.locator(".pick input").first().isChecked()), "the row is still selected");
}
await press("Enter");
await at(`jobs/${rows[0]}`);
await page.goBack();

// In a field they are letters; a slash moves to it.
await press("/");
await page.keyboard.type("jg/?x");
expect((await page.getByRole("searchbox").inputValue()) === "jg/?x", "the keys do not arrive in the field");
expect((await page.locator("dialog[open]").count()) === 0, "a key in a field opens a dialog");
await page.getByRole("searchbox").blur();

// A question mark lists the keys; they can be turned off, as long as somebody wants that.
await press("?");
const help = page.getByRole("dialog", { name: "Keyboard" });
await help.waitFor();
expect((await help.textContent()).includes("Schedules"), "the list of keys lacks the pages");
await press("j");
await help.getByLabel("Single keys").uncheck();
await press("Escape");
await help.waitFor({ state: "hidden" });
await page.reload();
await press("j");
expect(!rows.includes(await focused()), "a key that is turned off still works");
await page.getByRole("button", { name: "Keyboard" }).click();
await help.getByLabel("Single keys").check();
await help.getByRole("button", { name: "Close" }).click();
console.log("keys");

// The palette finds pages, queues, schedules and jobs, by parts of their names.
const palette = page.getByRole("dialog", { name: "Search" });
const search = palette.getByRole("combobox");
const chosen = () => palette.locator('[aria-selected="true"]').textContent();
const open = async (text) => {
  await press("Control+k");
  await palette.waitFor();
  await page.keyboard.type(text);
};
await open("workers");
expect((await chosen()).includes("Workers"), `the palette chooses ${await chosen()}`);
const active = await search.getAttribute("aria-activedescendant");
expect((await palette.locator(`#${active}`).getAttribute("aria-selected")) === "true", "the active entry is not the chosen one");
await press("Enter");
await at("workers");
await open("");
const first = await chosen();
await press("ArrowDown");
expect((await chosen()) !== first, "an arrow does not move");
await press("ArrowUp", "ArrowUp");
expect((await chosen()) === (await palette.locator("[role=option]").last().textContent()), "the list has no circle");
await press("Escape");
await palette.waitFor({ state: "hidden" });
await open("queue bui");
await palette.getByRole("option", { name: /Queue build/ }).waitFor();
await press("Enter");
await page.waitForURL(/q=queue%3Abuild/);
await open("nigh");
await palette.getByRole("option", { name: /Schedule nightly/ }).click();
await at("schedules/nightly");
await open("hostil");
await palette.getByRole("option", { name: /hostile-1/ }).waitFor();
await open("");
await press("Escape");
await open("hostile-1");
await press("Enter");
await at("jobs/hostile-1");

// Its actions are those of the page, and of queues.
await open("run again");
expect((await chosen()).includes("Run again"), `no action of the page: ${await chosen()}`);
await press("Escape");
await open("pause the queue bui");
await palette.getByRole("option", { name: /Pause the queue build/ }).waitFor();
// the page is shown again after the change
await page.evaluate(() => (window.isOld = true));
await press("Enter");
await page.waitForFunction(() => !window.isOld && document.readyState === "complete");
expect(await page.evaluate(async (url) => (await (await fetch(url)).json()).paused, new URL("api/queues/build", root).href), "the queue is not paused");
await open("resume");
await palette.getByRole("option", { name: /Resume the queue build/ }).waitFor();
await press("Escape");
console.log("palette");

// Views have names, which are text, whatever they contain.
await page.goto(new URL("jobs?q=state%3Afailed&cursor=", root).href);
const saved = page.getByRole("navigation", { name: "Saved views" });
const dialog = page.getByRole("dialog", { name: "Saved view" });
await saved.getByRole("button", { name: "Save this view" }).click();
await dialog.getByLabel("Name").fill("<img src=x onerror=alert(1)>");
await dialog.getByRole("button", { name: "Save" }).click();
await saved.getByRole("link", { name: "<img src=x" }).waitFor();
expect((await saved.getByRole("button", { name: "Save this view" }).count()) === 0, "a saved view can be saved again");
await saved.getByRole("button", { name: /^Change the view/ }).click();
await dialog.getByLabel("Name").fill("Mine");
await press("Enter");
await page.goto(new URL("jobs", root).href);
await saved.getByRole("link", { name: "Mine" }).click();
await page.waitForURL(/\?q=state%3Afailed$/);
expect((await saved.getByRole("link", { name: "Mine" }).getAttribute("aria-current")) === "true", "the view is not marked");
await open("view mine");
expect((await chosen()).includes("Mine"), `no view in the palette: ${await chosen()}`);
await press("Escape");

// axe-core injects its script, so this context ignores the policy that the pages above were under.
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const looked = await browser.newContext({ bypassCSP: true, storageState: await context.storageState() });
const look = await looked.newPage();
for (const colorScheme of ["light", "dark"]) {
  await look.emulateMedia({ colorScheme });
  for (const width of [1280, 400]) {
    await look.setViewportSize({ width, height: 900 });
    await look.goto(new URL("jobs?q=state%3Afailed", root).href);
    await look.getByRole("link", { name: "Mine" }).waitFor();
    for (const shown of ["", "Control+k", "?", "view"]) {
      if (shown === "view") await look.getByRole("button", { name: "Change the view Mine" }).click();
      else if (shown) await look.keyboard.press(shown);
      await look.evaluate(axe);
      const { violations } = await look.evaluate(() => axe.run());
      for (const { id, impact, nodes } of violations) {
        if (["serious", "critical"].includes(impact)) {
          wrong.push(`${shown}, ${colorScheme}, ${width}: ${id}: ${nodes[0].html.slice(0, 200)}`);
        }
      }
      const overflow = await look.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(overflow <= 0, `the page with ${shown} is ${overflow} pixels wider than ${width}`);
      if (process.env.SCREENSHOTS) await look.screenshot({ path: `${process.env.SCREENSHOTS}/keys-${shown.replace("?", "help")}-${colorScheme}-${width}.png` });
      if (shown) await look.keyboard.press("Escape");
    }
  }
}
await saved.getByRole("button", { name: "Change the view Mine" }).click();
await dialog.getByRole("button", { name: "Delete" }).click();
expect((await saved.getByRole("link").count()) === 0, "the view is not deleted");

// Without scripts nothing of this is on the page.
const plain = await browser.newContext({ javaScriptEnabled: false, storageState: await context.storageState() });
const still = await plain.newPage();
await still.goto(page.url());
for (const hidden of ["[data-palette]", "[data-keys]", "[data-views]", "dialog"]) {
  for (const one of await still.locator(hidden).all()) expect(!(await one.isVisible()), `${hidden} is visible without scripts`);
}
await browser.close();

for (const one of wrong) console.log(`wrong: ${one}`);
console.log(wrong.length === 0 ? "good" : "bad");
process.exit(wrong.length === 0 ? 0 : 1);
