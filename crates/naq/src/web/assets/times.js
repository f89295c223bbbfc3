// Times in the time zone that the reader has selected. The server writes each with its offset, in UTC or in the zone of a
// schedule, so any of them can be replaced by the same moment in another zone, whatever was shown before.

import { readStored, writeStored } from "./stored.js";

const TIME = /\b(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d+)? ?(Z|UTC|[+-]\d\d:\d\d)(?![\w:])/g;

/** What jobs and users have written, and times that stay in a zone of their own. */
const FIXED = "pre, code, textarea, .log, .command, .cause, .job-error, .id, [data-fixed]";

const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
const formats = new Map();
let choice = readStored("zone", "own");

/** The time zone of an element: the reader's, UTC, or that of the schedule that it is about. */
function zoneAt(element) {
  if (choice === "utc") return "UTC";
  const schedule = choice === "schedule" && element.closest("[data-zone]")?.dataset.zone;
  return schedule || own;
}

function formatOf(zone) {
  if (formats.has(zone)) return formats.get(zone);
  const date = { year: "numeric", month: "2-digit", day: "2-digit" };
  const time = { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "longOffset" };
  let format;
  try {
    format = new Intl.DateTimeFormat("sv-SE", { ...date, ...time, timeZone: zone });
  } catch {
    // the browser does not know the zone
    format = formatOf("UTC");
  }
  formats.set(zone, format);
  return format;
}

/** A text with its times in a zone. */
function inZone(text, zone) {
  return text.replace(TIME, (all, day, time, fraction = "", offset) => {
    const date = new Date(`${day}T${time}${fraction}${offset.replace("UTC", "Z")}`);
    if (isNaN(date)) return all;
    const shown = formatOf(zone).format(date);
    const ahead = shown.slice(20).replace("GMT", "").replace("\u2212", "-");
    return `${shown.slice(0, 19)}${fraction} ${/[1-9]/.test(ahead) ? ahead : "UTC"}`;
  });
}

/** Shows the times in an element. */
export function showTimes(root) {
  const kinds = NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT;
  const walker = document.createTreeWalker(root, kinds, (node) =>
    node.nodeType === Node.ELEMENT_NODE && node.matches(FIXED) ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT,
  );
  for (let node = root; node; node = walker.nextNode()) {
    if (node.nodeType === Node.TEXT_NODE) {
      const shown = inZone(node.data, zoneAt(node.parentElement));
      if (shown !== node.data) node.data = shown;
      continue;
    }
    for (const name of ["title", "aria-label"]) {
      const text = node.getAttribute(name);
      if (text) node.setAttribute(name, inZone(text, zoneAt(node)));
    }
    if (node.dataset.zoneName !== undefined) node.textContent = zoneAt(node);
    if (node.dataset.otherZone) node.hidden = node.dataset.otherZone === zoneAt(node);
    if (node.dataset.zoned !== undefined) node.href = inQuery(node.href, zoneAt(node));
  }
}

/** An address of what the server writes in a zone. */
function inQuery(address, zone) {
  const url = new URL(address);
  if (zone === "UTC") url.searchParams.delete("tz");
  else url.searchParams.set("tz", zone);
  return url.href;
}

/** Shows all times, and the switch. */
export function offerZones() {
  const main = document.getElementById("main");
  const label = document.getElementById("zone");
  const select = label.querySelector("select");
  select.options[0].textContent = own;
  select.value = choice;
  label.hidden = false;
  select.addEventListener("change", () => {
    choice = select.value;
    writeStored("zone", choice);
    showTimes(main);
  });
  // another page of the browser has another selection now
  addEventListener("storage", () => {
    choice = select.value = readStored("zone", "own");
    showTimes(main);
  });
  showTimes(main);
}
