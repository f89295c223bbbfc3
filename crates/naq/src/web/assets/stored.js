// Values that the browser keeps for this dashboard. Another dashboard on the same server has another base path.

const base = document.body.dataset.base ?? "";

/** The value of a key, or `otherwise`. */
export function readStored(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`naq${base}:${key}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Stores a value. Returns whether the browser keeps it: it may be full, or keep nothing. */
export function writeStored(key, value) {
  try {
    localStorage.setItem(`naq${base}:${key}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
