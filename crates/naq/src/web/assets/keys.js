// Keys: `j` and `k` move between the rows of lists, `x` selects, `/` filters, `g` and a letter open a page, `?` lists
// all keys. A row has the real focus, on its link, so Enter, Tab and screen readers work as everywhere.

import { isTyping, openDialog } from "./dialogs.js";
import { readStored, writeStored } from "./stored.js";

/** Time within which a letter after `g` opens a page, in milliseconds. */
const GO_MS = 1500;

/** The links of rows. */
function rows() {
  const links = [...document.querySelectorAll("main tbody tr")].map((row) => row.querySelector("a[href]"));
  return links.filter((link) => link?.checkVisibility());
}

/** Moves the focus by a number of rows. */
function move(by) {
  const links = rows();
  const here = document.activeElement.closest("main tbody tr");
  const at = links.findIndex((link) => here?.contains(link));
  const next = at < 0 ? (by > 0 ? 0 : links.length - 1) : at + by;
  links[Math.max(0, Math.min(next, links.length - 1))]?.focus();
}

/** Selects the row with the focus, if rows can be selected, or clears it. */
function select() {
  document.activeElement.closest("main tbody tr")?.querySelector(".pick input")?.click();
}

/** Moves the focus to the filter of the page. */
function toFilter() {
  const filter = document.querySelector("main input[type=search], main .choose select, main .choose input");
  filter?.focus();
  filter?.select?.();
}

/** The links to pages, by the first letters of their names. */
export function places() {
  return [...document.querySelectorAll(".places a")].map((link) => ({
    key: link.textContent.trim()[0].toLowerCase(),
    name: link.textContent.trim(),
    link,
  }));
}

export function listenToKeys() {
  const help = document.getElementById("keys");
  if (!help) return;
  for (const place of places()) {
    const term = document.createElement("dt");
    term.append(keyOf("g"), " ", keyOf(place.key));
    const text = document.createElement("dd");
    text.textContent = place.name;
    help.querySelector("dl").append(term, text);
  }
  const open = () => openDialog(help);
  // who speaks to the computer, or whose hands tremble, may turn single keys off
  const areOn = document.getElementById("keys-on");
  areOn.checked = readStored("keys", true);
  areOn.addEventListener("change", () => writeStored("keys", areOn.checked));
  for (const button of document.querySelectorAll("[data-keys]")) {
    button.hidden = false;
    button.addEventListener("click", open);
  }
  let goUntil = 0;
  const actions = { j: () => move(1), k: () => move(-1), x: select, "/": toFilter, "?": open };
  document.addEventListener("keydown", (event) => {
    const isOther = event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTyping(event);
    if (isOther || !areOn.checked || document.querySelector("dialog[open]")) return;
    const isGo = event.timeStamp < goUntil;
    goUntil = event.key === "g" && !isGo ? event.timeStamp + GO_MS : 0;
    const place = isGo && places().find(({ key }) => key === event.key);
    const action = place ? () => place.link.click() : actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function keyOf(text) {
  const key = document.createElement("kbd");
  key.textContent = text;
  return key;
}
