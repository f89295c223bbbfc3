// Updates of the open page: by a worker that all pages of the browser share, or by an own stream while the page is
// visible.

import { LiveStream } from "./stream.js";
import { scriptUrl } from "./trusted.js";

/** Starts the shared worker, or finds the one that runs. `null` if the browser has none. */
function startWorker() {
  if (!globalThis.SharedWorker) return null;
  const url = new URL("./live_worker.js", import.meta.url).href;
  try {
    return new SharedWorker(scriptUrl(url), { type: "module", name: "naq" });
  } catch {
    return null;
  }
}

/** Follows a topic of the stream at `url`. `on` gets its events and the states of the stream. */
export function follow(url, topic, on) {
  let hasEnded = false;
  const receive = (message) => {
    if (hasEnded) return;
    hasEnded = message.kind === "end";
    on(message);
  };
  const worker = startWorker();
  if (worker) share(worker, url, topic, receive, () => hasEnded);
  else followAlone(url, topic, receive, () => hasEnded);
}

function share(worker, url, topic, receive, hasEnded) {
  const { port } = worker;
  const join = () => hasEnded() || port.postMessage({ join: topic, url });
  const turn = () => document.hidden || join();
  const stop = new AbortController();
  // the script of the worker cannot be loaded, or the browser supports no modules in workers
  worker.addEventListener("error", () => {
    stop.abort();
    followAlone(url, topic, receive, hasEnded);
  });
  port.addEventListener("message", ({ data }) => {
    if (data.ping) port.postMessage({ pong: true });
    else receive(data);
  });
  port.start();
  // a page that the browser had suspended may have been forgotten
  document.addEventListener("visibilitychange", turn, { signal: stop.signal });
  addEventListener("pageshow", join, { signal: stop.signal });
  addEventListener("pagehide", () => port.postMessage({ leave: true }), { signal: stop.signal });
  join();
}

/** An own stream. A browser opens few connections to one server, so a hidden page has none. */
function followAlone(url, topic, receive, hasEnded) {
  const stream = new LiveStream(url, (message) => {
    if (message.kind === "end") stop();
    receive(message.state === "still" ? { state: "paused" } : message);
  });
  const stop = () => stream.set([]);
  const turn = () => (document.hidden || hasEnded() ? stop() : stream.set([topic]));
  document.addEventListener("visibilitychange", turn);
  addEventListener("pagehide", stop);
  addEventListener("pageshow", turn);
  turn();
}

/** Has the worker ask the server whether the session of the browser has ended. */
export function checkSession() {
  const worker = startWorker();
  worker?.port.start();
  worker?.port.postMessage({ check: true });
}
