// The command palette: pages, things and actions, found by typing parts of their names.

import { isTyping, openDialog } from "./dialogs.js";
import { places } from "./keys.js";
import { viewsOf } from "./views.js";

/** Maximum number of entries that are shown. */
const SHOWN_MAX = 40;

/** Maximum number of jobs that are looked up. */
const JOBS_MAX = 8;

/** Shortest part of an id by which jobs are looked up. */
const PREFIX_MIN = 3;

/** Pause after the last key before jobs are looked up, in milliseconds. */
const PAUSE_MS = 200;

const base = document.body.dataset.base ?? "";

const read = async (path) => {
  const answer = await fetch(base + path).catch(() => null);
  return answer?.ok ? answer.json() : {};
};

const lead = (kind, name, path, more = "") => ({ kind, name, more, act: () => location.assign(base + path) });

/** Buttons of the page, and those of the row with the focus. Those that need a confirmation stay where they are. */
function actionsOfPage() {
  const row = document.activeElement.closest("main tbody tr");
  const buttons = [...document.querySelectorAll("main form[method=post] button[type=submit], main a.button[href]:not([rel])")];
  return buttons
    .filter((button) => button.checkVisibility() && !button.closest("[data-check], .definition"))
    .filter((button) => !button.closest("tbody") || row?.contains(button))
    .map((button) => {
      const name = button.getAttribute("aria-label") ?? button.textContent.trim();
      return { kind: "Action", name, more: "on this page", act: () => button.click() };
    });
}

/** What the page itself knows. */
function known() {
  const pages = places().map(({ name, key, link }) => ({
    kind: "Page",
    name,
    more: `g ${key}`,
    act: () => location.assign(link.href),
  }));
  const views = ["/jobs", "/failed"].flatMap((path) =>
    viewsOf(path).map(({ name, query }) => lead("View", name, `${path}?${query}`, path === "/jobs" ? "Jobs" : "Failed")),
  );
  return [...actionsOfPage(), ...pages, ...views];
}

/** Sends a change to the API, and shows the page again. */
async function change(path) {
  const answer = await fetch(base + path, { method: "POST" }).catch(() => null);
  if (answer?.ok) return location.reload();
  const problem = await answer?.json().catch(() => null);
  return problem?.detail ?? "the dashboard does not answer";
}

/** What the server knows, within the rights of the user. */
async function stored() {
  const paths = ["/api/me", "/api/queues", "/api/schedules", "/api/workers"];
  const [me, { queues = [] }, { schedules = [] }, { workers = [] }] = await Promise.all(paths.map(read));
  const mayOperate = ["operate", "submit"].includes(me.right);
  const part = encodeURIComponent;
  const turn = ({ name, paused }) => {
    const verb = paused ? "resume" : "pause";
    const label = `${paused ? "Resume" : "Pause"} the queue ${name}`;
    return { kind: "Action", name: label, more: "", act: () => change(`/api/queues/${part(name)}/${verb}`) };
  };
  const jobsOf = ({ name, paused }) => lead("Queue", name, `/jobs?q=${part(`queue:${name}`)}`, paused ? "paused" : "");
  return [
    ...queues.map(jobsOf),
    ...schedules.map(({ schedule }) => lead("Schedule", schedule.schedule_id, `/schedules/${part(schedule.schedule_id)}`, schedule.status)),
    ...workers.map(({ worker_id, name, state }) => lead("Worker", name, `/workers#worker-${part(worker_id)}`, state)),
    ...(mayOperate ? queues.map(turn) : []),
  ];
}

/** The entries that contain every word, those that begin with the text first. */
function matching(entries, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const rank = ({ kind, name }) => {
    const lower = name.toLowerCase();
    const whole = `${kind} ${lower}`.toLowerCase();
    if (!words.every((word) => whole.includes(word))) return -1;
    if (words.length === 0) return 0;
    // what changes something is not chosen by accident
    const later = kind === "Action" ? 1 : 0;
    if (lower.startsWith(words[0]) || whole.startsWith(words[0])) return later;
    return later + (lower.split(/[^a-z0-9]+/).some((part) => part.startsWith(words[0])) ? 2 : 4);
  };
  const ranked = entries.map((entry) => ({ entry, rank: rank(entry) })).filter(({ rank }) => rank >= 0);
  return ranked.sort((a, b) => a.rank - b.rank).map(({ entry }) => entry);
}

export function preparePalette() {
  const dialog = document.getElementById("palette");
  if (!dialog) return;
  const input = dialog.querySelector("input");
  const list = dialog.querySelector("[role=listbox]");
  const status = dialog.querySelector("[role=status]");
  let entries = [];
  let jobs = [];
  let shown = [];
  let at = 0;
  let pause = 0;
  let opened = 0;

  const mark = (next) => {
    at = shown.length ? (next + shown.length) % shown.length : 0;
    [...list.children].forEach((option, place) => option.setAttribute("aria-selected", String(place === at)));
    list.children[at]?.scrollIntoView({ block: "nearest" });
    if (shown.length) input.setAttribute("aria-activedescendant", `palette-${at}`);
    else input.removeAttribute("aria-activedescendant");
  };
  const option = ({ kind, name, more }, place) => {
    const item = document.createElement("li");
    item.id = `palette-${place}`;
    item.setAttribute("role", "option");
    for (const [className, text] of [["kind", kind], ["name", name], ["more", more]]) {
      const part = document.createElement("span");
      part.className = className;
      part.textContent = text;
      item.append(part, " ");
    }
    return item;
  };
  const draw = () => {
    const id = input.value.trim();
    const isId = /^[A-Za-z0-9_-]{1,64}$/.test(id);
    const exact = isId ? [lead("Job", id, `/jobs/${id}`, "open the job with this id")] : [];
    const found = matching(entries, input.value);
    shown = [...found.slice(0, SHOWN_MAX), ...jobs, ...(jobs.some(({ name }) => name === id) ? [] : exact)];
    list.replaceChildren(...shown.map(option));
    status.textContent = shown.length ? `${shown.length} entries` : "Nothing matches";
    mark(0);
  };
  const lookUp = async () => {
    const text = input.value.trim();
    const number = opened;
    const isId = text.length >= PREFIX_MIN && /^[A-Za-z0-9_-]+$/.test(text);
    const answer = isId ? await read(`/api/jobs?limit=100&q=${encodeURIComponent(`"${text}"`)}`) : {};
    if (number !== opened || text !== input.value.trim()) return;
    // the API also finds texts in commands and errors
    const found = (answer.jobs ?? []).filter(({ job_id }) => job_id.includes(text));
    found.sort((a, b) => b.job_id.startsWith(text) - a.job_id.startsWith(text));
    jobs = found.slice(0, JOBS_MAX).map(({ job_id, state }) => lead("Job", job_id, `/jobs/${job_id}`, state));
    if (jobs.length) draw();
  };
  const act = async () => {
    const chosen = shown[at];
    if (!chosen) return;
    dialog.close();
    const problem = await chosen.act();
    if (problem) alertOf(problem);
  };
  const open = async () => {
    const number = ++opened;
    entries = known();
    jobs = [];
    input.value = "";
    if (!openDialog(dialog)) return;
    draw();
    const more = await stored();
    if (number !== opened) return;
    entries = [...entries, ...more];
    const kept = shown[at];
    draw();
    mark(Math.max(0, shown.indexOf(kept)));
  };

  input.addEventListener("input", () => {
    jobs = [];
    draw();
    clearTimeout(pause);
    pause = setTimeout(lookUp, PAUSE_MS);
  });
  input.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
    if (event.isComposing) return;
    if (event.key in steps) mark(Math.abs(steps[event.key]) === 1 ? at + steps[event.key] : Math.max(0, Math.min(at + steps[event.key], shown.length - 1)));
    else if (event.key === "Enter") act();
    else return;
    event.preventDefault();
  });
  list.addEventListener("click", ({ target }) => {
    const option = target.closest("[role=option]");
    if (!option) return;
    at = [...list.children].indexOf(option);
    act();
  });
  for (const button of document.querySelectorAll("[data-palette]")) {
    button.hidden = false;
    button.addEventListener("click", open);
  }
  document.addEventListener("keydown", (event) => {
    const isOpening = (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key === "k";
    // in a text of several lines the browser, or the system, may have a use for it
    if (!isOpening || (isTyping(event) && event.target.closest("textarea"))) return;
    event.preventDefault();
    open();
  });
}

/** Shows why an action failed. */
function alertOf(text) {
  document.getElementById("action-problem")?.remove();
  const note = document.createElement("p");
  note.id = "action-problem";
  note.className = "alert bad";
  note.setAttribute("role", "alert");
  note.textContent = `Not done: ${text}.`;
  document.querySelector("main").prepend(note);
}
