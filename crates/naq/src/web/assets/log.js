// The output of an ended job: loads rows as the reader scrolls, and marks the lines that the address names.

import { parse } from "./trusted.js";

/** Height of a row in pixels, as in the style. */
const ROW = 18;

/** Space above and below all rows in pixels, as in the style. */
const PADDING = 24;

/** Number of lines of a request. */
const CHUNK = 100;

/** Maximum number of chunks that are kept. */
const CHUNKS_MAX = 40;

/** Maximum height of the scrolled content in pixels: browsers clip what is higher. A longer output is scaled. */
const HEIGHT_MAX = 15_000_000;

/** Time without a scroll event after which missing rows are requested, in milliseconds. */
const PAUSE_MS = 60;

/** The lines that a fragment such as `#stdout-L12-L20` names. */
function linesOf(hash, name) {
  const [, own, first, last] = /^#(\w+)-L(\d+)(?:-L(\d+))?$/.exec(hash) ?? [];
  return own === name ? [Number(first), Number(last ?? first)] : null;
}

class Log {
  constructor(section) {
    this.section = section;
    this.name = section.id;
    this.lines = Number(section.dataset.lines);
    this.height = Math.min(this.lines * ROW, HEIGHT_MAX);
    this.chunks = new Map();
    this.turn = 0;
    this.marked = null;
    this.view = section.querySelector(".log");
    this.keepRows();
    this.rows = document.createElement("div");
    this.rows.className = "rows";
    const content = document.createElement("div");
    content.className = "content";
    content.style.height = `${this.height}px`;
    content.append(this.rows);
    this.view.classList.add("virtual");
    this.view.replaceChildren(content);
    this.view.addEventListener("scroll", () => this.draw(), { passive: true });
    section.addEventListener("click", (event) => this.choose(event));
    addEventListener("hashchange", () => this.follow());
    new ResizeObserver(() => this.draw()).observe(this.view);
    const [first, last] = [Number(section.dataset.first), Number(section.dataset.last)];
    if (last > 0) this.mark(first, last);
    this.follow(first);
  }

  /** Keeps the rows that came with the page. */
  keepRows() {
    const chunks = new Map();
    for (const element of this.view.querySelectorAll(".row")) {
      const line = Number(element.firstElementChild.dataset.n);
      const at = Math.floor((line - 1) / CHUNK);
      if (!chunks.has(at)) chunks.set(at, []);
      chunks.get(at).push({ line, element });
    }
    for (const [at, rows] of chunks) {
      if (rows.length === Math.min(CHUNK, this.lines - at * CHUNK)) this.chunks.set(at, Promise.resolve(rows));
    }
  }

  /** Shows the lines that the address names, or `line`. */
  follow(line = 0) {
    const marked = linesOf(location.hash, this.name);
    if (marked) this.mark(...marked);
    const first = marked?.[0] || line;
    if (first > 0) this.scrollTo(first);
    this.draw();
    if (marked) this.section.scrollIntoView({ block: "nearest" });
  }

  /** Number of rows of the view. */
  screen() {
    return Math.max(1, Math.ceil(this.view.clientHeight / ROW));
  }

  /** How far the view can be scrolled, in pixels. */
  range() {
    return Math.max(1, this.view.scrollHeight - this.view.clientHeight);
  }

  /** Number of lines before the view if it is scrolled to its end. */
  hiddenLines() {
    return Math.max(1, this.lines - (this.view.clientHeight - PADDING) / ROW);
  }

  isScaled() {
    return this.height < this.lines * ROW;
  }

  /** Number of lines before the top of the view. */
  top() {
    if (!this.isScaled()) return this.view.scrollTop / ROW;
    return (this.view.scrollTop / this.range()) * this.hiddenLines();
  }

  scrollTo(line) {
    const top = Math.max(0, line - 1 - Math.floor(this.screen() / 3));
    this.view.scrollTop = this.isScaled() ? (top / this.hiddenLines()) * this.range() : top * ROW;
  }

  /** Puts the rows of the view and of two screens around it into the page. */
  async draw() {
    const turn = ++this.turn;
    const [top, screen] = [this.top(), this.screen()];
    const first = Math.max(1, Math.floor(top) + 1 - 2 * screen);
    const last = Math.min(this.lines, Math.ceil(top) + 3 * screen);
    const wanted = [];
    for (let at = Math.floor((first - 1) / CHUNK); at * CHUNK < last; at++) wanted.push(at);
    if (wanted.some((at) => !this.chunks.has(at))) {
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      if (turn !== this.turn) return;
    }
    const chunks = await Promise.all(wanted.map((at) => this.load(at)));
    if (turn !== this.turn) return;
    const rows = chunks.flat().filter((row) => row.line >= first && row.line <= last);
    if (rows.length === 0) return;
    this.place(rows.map((row) => row.element));
    // where the first row is if the line at the top of the view is at the top
    this.rows.style.top = `${Math.round(this.view.scrollTop + (rows[0].line - 1 - top) * ROW)}px`;
    this.showMarked();
  }

  /** Makes these the rows of the page. Rows that stay are not moved, so that a selection in them stays. */
  place(rows) {
    const wanted = new Set(rows);
    for (const row of [...this.rows.children]) if (!wanted.has(row)) row.remove();
    let next = this.rows.firstChild;
    for (const row of rows) {
      if (row === next) next = next.nextSibling;
      else this.rows.insertBefore(row, next);
    }
  }

  /** The rows of a chunk. A request that fails is sent again when the reader scrolls. */
  load(at) {
    const known = this.chunks.get(at);
    this.chunks.delete(at);
    const chunk = known ?? this.request(at);
    this.chunks.set(at, chunk);
    if (this.chunks.size > CHUNKS_MAX) this.chunks.delete(this.chunks.keys().next().value);
    return chunk;
  }

  async request(at) {
    try {
      const answer = await fetch(`${this.section.dataset.log}&from=${at * CHUNK + 1}&count=${CHUNK}`);
      if (!answer.ok || answer.redirected) throw new Error(answer.statusText);
      const rows = [...parse(await answer.text()).children];
      return rows.map((row, index) => ({ line: at * CHUNK + index + 1, element: document.importNode(row, true) }));
    } catch {
      this.chunks.delete(at);
      return [];
    }
  }

  /** Selects the line whose number was clicked, or with Shift the lines up to it. */
  choose(event) {
    const number = event.target.closest?.("a.n");
    if (!number || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const line = Number(number.dataset.n);
    const other = event.shiftKey && this.marked ? this.marked[0] : line;
    const [first, last] = [Math.min(line, other), Math.max(line, other)];
    const query = new URLSearchParams(location.search);
    // the page shows the lines without scripts too
    query.set(this.name, first === last ? `${first}` : `${first}-${last}`);
    const hash = first === last ? `${this.name}-L${first}` : `${this.name}-L${first}-L${last}`;
    history.replaceState(null, "", `?${query}#${hash}`);
    this.mark(first, last);
  }

  mark(first, last) {
    this.marked = [first, last];
    const link = this.section.querySelector("[data-selected]");
    link.hidden = first === last;
    link.href = `${link.dataset.selected}${first}-${last}`;
    link.textContent = `Lines ${first}–${last}`;
    this.showMarked();
  }

  showMarked() {
    const [first, last] = this.marked ?? [0, 0];
    for (const row of this.rows.children) {
      const line = Number(row.firstElementChild.dataset.n);
      row.classList.toggle("hit", line >= first && line <= last);
    }
  }
}

/** Shows each output of the page. */
export function showLogs() {
  for (const section of document.querySelectorAll("[data-log]")) {
    if (section.dataset.lines !== "0" && !section.querySelector(".virtual")) new Log(section);
  }
}
