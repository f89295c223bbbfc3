// The output of a running job.

import { parse } from "./trusted.js";

/** Maximum number of lines of live output that the page keeps while the reader is at the end. */
const LINES_MAX = 5000;

/** Shows the output of a running job, by its events. The page stays at its end until the reader scrolls up. */
export function showOutput(log, jump) {
  const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  const toEnd = () => (log.scrollTop = log.scrollHeight);
  log.addEventListener("scroll", () => (jump.hidden = isAtEnd()));
  jump.addEventListener("click", toEnd);
  // the page came with the output so far
  toEnd();
  // after a lost stream the output comes again from its beginning
  let isStart = true;
  return (kind, data) => {
    if (kind === "output-start") isStart = true;
    if (kind !== "output") return;
    // asks the page itself, because the scroll event may arrive after this one
    const follows = isAtEnd();
    jump.hidden = follows;
    if (isStart) log.replaceChildren();
    isStart = false;
    for (const line of log.querySelectorAll("[data-partial]")) line.remove();
    log.append(...[...parse(data).childNodes].map((line) => document.importNode(line, true)));
    // keeps more lines for a reader who has scrolled up, so that the text seldom moves
    const linesMax = follows ? LINES_MAX : 4 * LINES_MAX;
    while (log.childElementCount > linesMax) log.firstElementChild.remove();
    if (follows) toEnd();
  };
}
