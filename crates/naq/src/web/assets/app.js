// What every page loads. The server renders the pages, and they work without scripts.

import { checkWhileTyping } from "./form_check.js";
import { checkSession } from "./live.js";
import { showUpdates } from "./live_page.js";
import { showLocalTimes } from "./times.js";

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
showLocalTimes();
for (const form of document.querySelectorAll("form[data-check]")) checkWhileTyping(form);
showStored();
