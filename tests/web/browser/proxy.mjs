// Looks at pages behind nginx in a real browser, as `tests/web/proxy.rs` asks. Arguments: the program of the browser,
// the address of the pages, and the name and the password of a user of nginx. Prints a line for each step; the test
// acts between them. Exits with 1 if something is wrong.
import { chromium } from "playwright-core";

const [program, address, username, password] = process.argv.slice(2);
const wrong = [];
const expect = (holds, what) => holds || wrong.push(what);

// Root has no sandbox, and a container little shared memory.
const browser = await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const context = await browser.newContext({ httpCredentials: { username, password } });
const page = await context.newPage();
page.on("console", (message) => {
  if (message.type() === "error") wrong.push(`console: ${message.text()}`);
});
page.on("pageerror", (error) => wrong.push(`script: ${error.message}`));
page.on("request", (request) => {
  const { pathname } = new URL(request.url());
  if (!pathname.startsWith("/naq/")) wrong.push(`a request outside of the base path: ${pathname}`);
});

// nginx has logged the user in, so the dashboard shows no form.
await page.goto(address);
await page.waitForFunction(() => document.getElementById("live-state").dataset.state === "live");
expect((await page.locator(".user").textContent()).trim() === username, "another user is shown");
expect((await page.getByRole("button", { name: "Log out" }).count()) === 0, "a logout without an effect");
console.log("live");

// The test enqueues a job, which appears without a reload.
await page.waitForSelector("#job-seen");
console.log("seen");

// A change by a form, and the page that it leads to.
await page.getByRole("link", { name: "Schedules", exact: true }).click();
await page.getByRole("button", { name: "Pause nightly" }).click();
await page.getByRole("button", { name: "Resume nightly" }).waitFor();
const links = await page.locator("a[href]").evaluateAll((all) => all.map((link) => link.getAttribute("href")));
for (const link of links) expect(link.startsWith("/naq/") || link.startsWith("#"), `the link ${link}`);

await browser.close();
for (const what of wrong) console.error(what);
console.log(wrong.length ? `wrong: ${wrong.join("; ")}` : "good");
process.exit(wrong.length ? 1 : 0);
