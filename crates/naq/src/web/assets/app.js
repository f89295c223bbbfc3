// What every page loads. The server renders the pages, and they work without scripts.

import { offerCopies } from "./copy.js";
import { checkWhileTyping } from "./form_check.js";
import { checkSession } from "./live.js";
import { listenToKeys } from "./keys.js";
import { showUpdates } from "./live_page.js";
import { preparePalette } from "./palette.js";
import { offerZones } from "./times.js";
import { showViews } from "./views.js";

/** Shows the outputs of an ended job, by a module that other pages do not load. */
async function showStored() {
  if (!document.querySelector("[data-log]")) return;
  const { showLogs } = await import("./log.js");
  showLogs();
}

const view = document.querySelector("[data-live]");
const state = document.getElementById("live-state");
if (view && state) showUpdates(view, state, showStored);
// other pages learn of a logout too
if (document.querySelector("[data-logged-out]")) checkSession();
offerZones();
// on a narrow page the links to pages are wider than it
document.querySelector(".places [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
for (const form of document.querySelectorAll("form[data-check]")) checkWhileTyping(form);
offerCopies();
listenToKeys();
preparePalette();
for (const list of document.querySelectorAll("[data-views]")) showViews(list);
showStored();
