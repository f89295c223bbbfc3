// Replaces only the changed parts of an element, so that the selection, the focus and the scroll position stay.

/** Makes `now` look like `next`, and keeps the elements that both have. */
export function patch(now, next) {
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
