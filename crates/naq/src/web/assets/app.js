// Updates an open page. The server renders the markup; this replaces only the changed parts, so that the
// selection, the focus and the scroll position stay.

/** Converts text of the server to markup. The policy of Trusted Types permits no other code to do so. */
const policy = globalThis.trustedTypes?.createPolicy("naq", { createHTML: (text) => text });

function parse(text) {
  const html = policy ? policy.createHTML(text) : text;
  return new DOMParser().parseFromString(html, "text/html").body;
}

/** Makes `now` look like `next`, and keeps the elements that both have. */
function patch(now, next) {
  patchAttributes(now, next);
  const byId = new Map();
  for (const child of now.children) if (child.id) byId.set(child.id, child);
  let place = now.firstChild;
  for (const wanted of [...next.childNodes]) {
    const known = wanted.id ? byId.get(wanted.id) : undefined;
    // Moving an element loses the selection in it, so the elements before it move instead.
    while (known && place && place !== known && !place.id) {
      const rest = place.nextSibling;
      place.remove();
      place = rest;
    }
    const same = known ?? (isAlike(place, wanted) ? place : null);
    if (!same) {
      now.insertBefore(document.importNode(wanted, true), place);
      continue;
    }
    if (same === place) place = place.nextSibling;
    else now.insertBefore(same, place);
    if (same.nodeType === Node.ELEMENT_NODE) patch(same, wanted);
    else if (same.data !== wanted.data) same.data = wanted.data;
  }
  while (place) {
    const rest = place.nextSibling;
    place.remove();
    place = rest;
  }
}

/** Whether a node can become another one without being replaced. */
function isAlike(node, wanted) {
  return Boolean(node) && node.nodeName === wanted.nodeName && !node.id && !wanted.id;
}

function patchAttributes(now, next) {
  if (!next.attributes) return;
  for (const { name } of [...now.attributes]) {
    // keeps open what the reader has opened
    const isKept = name.startsWith("data-") || (name === "open" && now.nodeName === "DETAILS");
    if (!next.hasAttribute(name) && !isKept) now.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  }
}

/** Time until a refused connection is opened again, in milliseconds. */
const RETRY_MS = 3000;

/** Receives updates while the page is visible. A browser opens few connections to one server, so a hidden
    page has none. `listen` gets each new connection, to listen to more of its events. */
function follow(view, state, listen) {
  let source = null;
  let hasEnded = false;
  let retry = 0;
  const show = (word, text) => {
    state.dataset.state = word;
    state.textContent = text;
  };
  const start = () => {
    if (source || hasEnded) return;
    clearTimeout(retry);
    source = new EventSource(view.dataset.live);
    source.addEventListener("open", () => show("live", "live"));
    source.addEventListener("error", () => {
      show("away", "reconnecting");
      // A browser opens a lost connection again, but not one that was refused, as by a proxy without a dashboard.
      if (source?.readyState !== EventSource.CLOSED) return;
      source = null;
      retry = setTimeout(start, RETRY_MS);
    });
    source.addEventListener(view.dataset.event ?? "overview", (event) => {
      const next = view.cloneNode(false);
      next.replaceChildren(...parse(event.data).childNodes);
      patch(view, next);
    });
    source.addEventListener("end", async () => {
      hasEnded = true;
      stop();
      show("still", "ended");
      await reload();
    });
    listen?.(source);
  };
  const stop = () => {
    clearTimeout(retry);
    source?.close();
    source = null;
    if (!hasEnded) show("still", "paused");
  };
  const turn = () => (document.hidden ? stop() : start());
  document.addEventListener("visibilitychange", turn);
  addEventListener("pagehide", stop);
  addEventListener("pageshow", turn);
  turn();
}

/** Reads the page again, and replaces the changed parts. */
async function reload() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const next = parse(await answer.text()).querySelector("main");
  if (next) patch(document.querySelector("main"), next);
  await showStored();
}

/** Shows the outputs of an ended job, by a module that other pages do not load. */
async function showStored() {
  const first = document.querySelector("[data-log]");
  if (!first) return;
  const { showLogs } = await import(first.dataset.module);
  showLogs(parse);
}

/** Maximum number of lines of live output that the page keeps while the reader is at the end. */
const LINES_MAX = 5000;

/** Shows the output of a running job. The page stays at its end until the reader scrolls up. */
function showOutput(log, jump) {
  const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  const toEnd = () => (log.scrollTop = log.scrollHeight);
  log.addEventListener("scroll", () => (jump.hidden = isAtEnd()));
  jump.addEventListener("click", toEnd);
  // the page came with the output so far
  toEnd();
  return (source) => {
    // after a lost connection the output comes again from its beginning
    let isStart = true;
    source.addEventListener("output-start", () => (isStart = true));
    source.addEventListener("output", (event) => {
      // asks the page itself, because the scroll event may arrive after this one
      const follows = isAtEnd();
      jump.hidden = follows;
      if (isStart) log.replaceChildren();
      isStart = false;
      for (const line of log.querySelectorAll("[data-partial]")) line.remove();
      log.append(...[...parse(event.data).childNodes].map((line) => document.importNode(line, true)));
      // keeps more lines for a reader who has scrolled up, so that the text seldom moves
      const linesMax = follows ? LINES_MAX : 4 * LINES_MAX;
      while (log.childElementCount > linesMax) log.firstElementChild.remove();
      if (follows) toEnd();
    });
  };
}

const view = document.querySelector("[data-live]");
const state = document.getElementById("live-state");
const log = document.getElementById("live-output");
const listen = log && showOutput(log, document.getElementById("live-jump"));
if (view && state) follow(view, state, listen);

/** Shows times in the time zone of the viewer. Without this script they are in UTC. */
const local = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "long" });
for (const time of document.querySelectorAll("time.local")) time.textContent = local.format(new Date(time.dateTime));
for (const title of document.querySelectorAll("[data-local]")) title.textContent = title.dataset.local;
/** Pause after the last key before a form is checked, in milliseconds. */
const CHECK_PAUSE_MS = 250;

/** Checks a form while it is filled in: the server answers with the page, of which one part is shown. */
function checkWhileTyping(form) {
  const shown = document.querySelector(form.dataset.check);
  let pause = 0;
  let asked = 0;
  const check = async () => {
    const number = ++asked;
    const body = new URLSearchParams(new FormData(form));
    body.set("action", "check");
    const answer = await fetch(form.getAttribute("action"), { method: "POST", body }).catch(() => null);
    // answers may overtake each other
    if (!answer?.ok || number !== asked) return;
    const next = parse(await answer.text()).querySelector(form.dataset.check);
    if (next) patch(shown, next);
  };
  form.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(check, CHECK_PAUSE_MS);
  });
  // entered before this script ran, or restored by the browser
  if ([...form.elements].some((field) => "defaultValue" in field && field.value !== field.defaultValue)) check();
}

for (const form of document.querySelectorAll("form[data-check]")) checkWhileTyping(form);
showStored();
