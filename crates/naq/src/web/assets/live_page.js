// The part of a page that shows what changes on the server.

import { follow } from "./live.js";
import { showOutput } from "./live_output.js";
import { patch } from "./patch.js";
import { showTimes } from "./times.js";
import { parse } from "./trusted.js";

/** The words for the states of a stream. */
const STATES = { live: "live", away: "reconnecting", out: "logged out", paused: "paused", still: "not live" };

/** Replaces the changed parts of `view` after each update, and shows in `state` whether updates arrive. */
export function showUpdates(view, state, onReload) {
  const url = new URL(view.dataset.live, location.href);
  const log = document.getElementById("live-output");
  const output = log && showOutput(log, document.getElementById("live-jump"));
  // Output begins when a page follows it, so two pages of one job have two topics.
  const own = log ? `~${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}` : "";
  const topic = `${url.search.slice(1) || "overview"}${own}`;
  const show = (name, text) => {
    state.dataset.state = name;
    state.textContent = text;
  };
  follow(url.origin + url.pathname, topic, async ({ state: name, kind, data }) => {
    if (name) {
      show(name, STATES[name]);
      showLogin(name === "out", url);
    } else if (kind === "end") {
      show("still", "ended");
      await reload();
      onReload();
    } else if (kind === (view.dataset.event ?? "overview")) {
      const next = view.cloneNode(false);
      next.replaceChildren(...parse(data).childNodes);
      showTimes(next);
      patch(view, next);
    } else {
      output?.(kind, data);
    }
  });
}

/** Shows a link to the login page while the session has ended. What the reader has typed stays. */
function showLogin(isOut, url) {
  const known = document.getElementById("logged-out");
  if (!isOut) known?.remove();
  if (!isOut || known) return;
  const link = document.createElement("a");
  link.href = url.pathname.replace(/live$/, "login");
  link.textContent = "Log in";
  const note = document.createElement("p");
  note.id = "logged-out";
  note.className = "alert";
  note.setAttribute("role", "alert");
  note.append("The session has ended, so this page is not up to date. ", link);
  document.querySelector("main").prepend(note);
}

/** Reads the page again, and replaces the changed parts. */
async function reload() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const next = parse(await answer.text()).querySelector("main");
  if (!next) return;
  showTimes(next);
  patch(document.querySelector("main"), next);
}
