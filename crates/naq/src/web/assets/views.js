// Saved views: filters of a page, with names, which this browser keeps.

import { openDialog } from "./dialogs.js";
import { readStored, writeStored } from "./stored.js";

/** Maximum number of views of a page. */
const VIEWS_MAX = 50;

/** The query of an address without its position in the list. */
function filterOf(search) {
  const query = new URLSearchParams(search);
  query.delete("cursor");
  for (const [name, value] of [...query]) if (!value) query.delete(name);
  return query.toString();
}

/** The views of a page, as `{ name, query }`. */
export function viewsOf(path) {
  const views = readStored(`views:${path}`, []);
  if (!Array.isArray(views)) return [];
  return views.filter(({ name, query }) => typeof name === "string" && typeof query === "string");
}

/** Shows the views of the page, and what saves, renames and deletes one. */
export function showViews(list) {
  const path = list.dataset.views;
  const dialog = document.getElementById("view");
  const form = dialog.querySelector("form");
  const name = form.elements.namedItem("view-name");
  const problem = form.querySelector("[role=alert]");
  const here = filterOf(location.search);
  let edited = null;

  const edit = (view) => {
    edited = view;
    name.value = view?.name ?? "";
    problem.hidden = true;
    form.querySelector("[data-delete]").hidden = !view;
    openDialog(dialog);
    name.select();
  };
  const store = (views) => {
    problem.hidden = writeStored(`views:${path}`, views);
    if (!problem.hidden) return;
    dialog.close();
    draw();
  };
  const button = (text, label, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "quiet";
    made.textContent = text;
    if (label) made.setAttribute("aria-label", label);
    made.addEventListener("click", act);
    return made;
  };
  const chip = (view) => {
    const link = document.createElement("a");
    link.href = `?${view.query}`;
    link.textContent = view.name;
    if (view.query === here) link.setAttribute("aria-current", "true");
    const item = document.createElement("li");
    item.append(link, button("⋯", `Change the view ${view.name}`, () => edit(view)));
    return item;
  };
  const draw = () => {
    const views = viewsOf(path);
    const isSaved = views.some((view) => view.query === here);
    const items = document.createElement("ul");
    items.append(...views.map(chip));
    const save = here && !isSaved && views.length < VIEWS_MAX ? [button("Save this view", "", () => edit(null))] : [];
    list.replaceChildren(...(views.length ? [items] : []), ...save);
    list.hidden = list.childElementCount === 0;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = name.value.trim();
    if (!text) return;
    const view = { name: text, query: edited?.query ?? here };
    // another view of this name is replaced
    const others = viewsOf(path).filter((known) => known.name !== text);
    const at = others.findIndex((known) => known.name === edited?.name);
    others.splice(at < 0 ? others.length : at, at < 0 ? 0 : 1, view);
    store(others);
  });
  form.querySelector("[data-delete]").addEventListener("click", () => {
    store(viewsOf(path).filter((known) => known.name !== edited?.name));
  });
  draw();
}
