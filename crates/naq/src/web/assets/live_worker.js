// A worker that all pages of the browser share, so that they share one stream. A browser opens only six connections
// to one server, so ten pages with a stream each would block one another.

import { LiveStream } from "./stream.js";

/** Time between two questions to a page whether it is still open, in milliseconds. */
const PING_MS = 20_000;

/** Number of questions that a page may leave unanswered. */
const MISSED_MAX = 2;

/** The pages, by their ports: the topic of each, and the number of questions that it has not answered. */
const pages = new Map();
let stream = null;

function update() {
  const topics = [...pages.values()].map((page) => page.topic);
  stream.set(topics.filter(Boolean));
}

function emit({ state, topic, kind, data }) {
  for (const [port, page] of pages) {
    if (state) port.postMessage({ state });
    else if (page.topic === topic) port.postMessage({ kind, data });
  }
  if (kind !== "end") return;
  for (const page of pages.values()) if (page.topic === topic) page.topic = "";
  update();
}

function join(port, url, topic) {
  stream ??= new LiveStream(url, emit);
  pages.set(port, { topic, missed: 0 });
  update();
  port.postMessage({ state: stream.state });
}

function leave(port) {
  if (pages.delete(port)) update();
}

globalThis.addEventListener("connect", ({ ports: [port] }) => {
  port.addEventListener("message", ({ data }) => {
    const page = pages.get(port);
    if (page) page.missed = 0;
    if (data.leave) leave(port);
    else if (data.check) stream?.check();
    else if (data.join && page?.topic !== data.join) join(port, data.url, data.join);
  });
  // not every browser has this event, so pages are asked too
  port.addEventListener("close", () => leave(port));
  port.start();
});

setInterval(() => {
  for (const [port, page] of pages) {
    if (page.missed >= MISSED_MAX) leave(port);
    page.missed += 1;
    port.postMessage({ ping: true });
  }
}, PING_MS);
