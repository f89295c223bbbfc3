// Keeps an open page up to date. The server makes the markup; this only replaces what has changed, so that
// a selection, the focus and the place on the page stay.

/** Makes markup of the server's text. Nothing else on the page may: see the policy of Trusted Types. */
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
    // Moving an element loses what is selected in it, so what is before it goes instead.
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
    if (!next.hasAttribute(name) && !name.startsWith("data-")) now.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  }
}

/** Follows the server while the page is seen. A browser opens few connections to one server, so a hidden
    page has none. */
function follow(view, state) {
  let source = null;
  const show = (word, text) => {
    state.dataset.state = word;
    state.textContent = text;
  };
  const start = () => {
    if (source) return;
    source = new EventSource(view.dataset.live);
    source.addEventListener("open", () => show("live", "live"));
    source.addEventListener("error", () => show("away", "reconnecting"));
    source.addEventListener("overview", (event) => {
      const next = view.cloneNode(false);
      next.replaceChildren(...parse(event.data).childNodes);
      patch(view, next);
    });
  };
  const stop = () => {
    source?.close();
    source = null;
    show("still", "paused");
  };
  const turn = () => (document.hidden ? stop() : start());
  document.addEventListener("visibilitychange", turn);
  addEventListener("pagehide", stop);
  addEventListener("pageshow", turn);
  turn();
}

const view = document.getElementById("overview");
const state = document.getElementById("live-state");
if (view && state) follow(view, state);
