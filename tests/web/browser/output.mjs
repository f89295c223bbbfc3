// Looks at the output of an ended job in a real browser, as `tests/web/browser.rs` asks. Arguments: the program of
// the browser, and the address that logs in. Exits with 1 if something is wrong.
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
const job = new URL("jobs/long", page.url()).href;
await page.goto(job);

// Text of the job is text, and a line of 10 MB is a short row.
const log = page.locator("#stdout .log");
const row = (line) => page.locator(`#stdout-L${line} .t`);
await row(1).waitFor();
expect((await row(1).textContent()) === "red <script>alert(1)</script> \\u{202e} bidi", await row(1).textContent());
expect((await row(1).locator(".fg1").textContent()) === "red", "the output has no colour");
expect((await page.locator("#stderr-L1 .t").textContent()).includes("<img src=x onerror=alert(2)>"), "stderr is not text");
const long = await row(2).textContent();
expect(long.length < 2_100 && long.endsWith("… the whole line, 9.5 MiB"), `a long line has ${long.length} characters`);

// Few rows of the 200,000 are in the page, wherever the reader scrolls.
for (const share of [0.5, 1, 0.25]) {
  await log.evaluate((log, share) => (log.scrollTop = share * (log.scrollHeight - log.clientHeight)), share);
  const line = Math.max(3, Math.round(share * 199_970));
  const isShown = (line) =>
    [...document.querySelectorAll("#stdout .row .n")].some((number) => Math.abs(Number(number.dataset.n) - line) < 40);
  await page.waitForFunction(isShown, line);
  const rows = await log.locator(".row").count();
  expect(rows > 30 && rows < 400, `${rows} rows are in the page`);
}
await log.evaluate((log) => (log.scrollTop = log.scrollHeight));
await row(200_000).waitFor();
const isInside = () => page.evaluate(() => {
  const [row, view] = ["#stdout-L200000", "#stdout .log"].map((name) => document.querySelector(name).getBoundingClientRect());
  return row.bottom <= view.bottom + 1 && row.top >= view.top;
});
expect(await isInside(), "the last line is outside of the view");

// A number selects its line, and with Shift a range; the address names both, also for a browser without scripts.
await row(199_999).waitFor();
await page.locator("#stdout-L199990 .n").click();
expect(page.url().endsWith("?stdout=199990#stdout-L199990"), page.url());
await page.locator("#stdout-L199993 .n").click({ modifiers: ["Shift"] });
expect(page.url().endsWith("?stdout=199990-199993#stdout-L199990-L199993"), page.url());
expect((await page.locator("#stdout .row.hit").count()) === 4, "not four lines are marked");
const link = await page.getByRole("link", { name: "Lines 199990–199993" }).getAttribute("href");
expect(link.endsWith("?plain&lines=199990-199993"), link);
const address = page.url();

// What is copied has no numbers.
const copied = await page.evaluate(() => {
  const range = document.createRange();
  range.setStartBefore(document.getElementById("stdout-L199990"));
  range.setEndAfter(document.getElementById("stdout-L199992"));
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  return getSelection().toString().trim();
});
expect(copied === "199990\n199991\n199992", `copied: ${JSON.stringify(copied)}`);

// The address leads to the lines, with scripts and without.
const other = await context.newPage();
await other.goto(address);
await other.locator("#stdout-L199990.hit").waitFor();
await other.close();
const plain = await browser.newContext({ javaScriptEnabled: false, storageState: await context.storageState() });
const still = await plain.newPage();
await still.goto(address);
expect((await still.locator("#stdout .row.hit").count()) === 4, "without scripts the lines are not marked");
await still.goto(`${job}?stdout=120000#stdout-L120000`);
expect(await still.locator("#stdout-L120000").isVisible(), "without scripts the line is not shown");
await still.getByRole("link", { name: "First line" }).click();
expect(await still.locator("#stdout-L1").isVisible(), "the first line is not shown");
await still.getByRole("searchbox", { name: "Text to search stdout for" }).fill("120001");
await still.locator("#stdout").getByRole("button", { name: "Search" }).click();
await still.locator("#stdout .found").getByRole("link", { name: "Line 120001" }).click();
expect((await still.locator("#stdout-L120001 .t").textContent()) === "120001", "the match is not shown");
await plain.close();

// A search with scripts.
await page.getByRole("searchbox", { name: "Text to search stdout for" }).fill("19999");
await page.locator("#stdout").getByRole("button", { name: "Search" }).click();
await page.locator("#stdout .found").getByRole("link", { name: "Line 119999" }).click();
await page.locator("#stdout-L119999.hit").waitFor();

// axe-core injects its script, so this context ignores the policy that the pages above were under.
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
const looked = await browser.newContext({ bypassCSP: true, storageState: await context.storageState() });
const look = await looked.newPage();
for (const colorScheme of ["light", "dark"]) {
  await look.emulateMedia({ colorScheme });
  for (const width of [1280, 400]) {
    await look.setViewportSize({ width, height: 900 });
    await look.goto(`${job}?q=19999&in=stdout&stdout=120000-120003`);
    await look.locator("#stdout-L120000.hit").waitFor();
    await look.evaluate(axe);
    const { violations } = await look.evaluate(() => axe.run());
    for (const { id, impact, nodes } of violations) {
      if (["serious", "critical"].includes(impact)) {
        wrong.push(`${colorScheme}, ${width}: ${id}: ${nodes[0].html.slice(0, 200)}`);
      }
    }
    const overflow = await look.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(overflow <= 0, `the page is ${overflow} pixels wider than ${width}`);
    if (process.env.NAQ_SCREENSHOTS) {
      await look.screenshot({ path: `${process.env.NAQ_SCREENSHOTS}/output-${colorScheme}-${width}.png`, fullPage: true });
    }
  }
}
await browser.close();

for (const one of wrong) console.log(`wrong: ${one}`);
console.log(wrong.length === 0 ? "good" : "bad");
process.exit(wrong.length === 0 ? 0 : 1);
