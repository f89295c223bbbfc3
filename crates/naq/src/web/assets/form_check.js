// Forms that the server checks while they are filled in.

import { patch } from "./patch.js";
import { parse } from "./trusted.js";

/** Pause after the last key before a form is checked, in milliseconds. */
const CHECK_PAUSE_MS = 250;

/** Checks a form while it is filled in: the server answers with the page, of which one part is shown. */
export function checkWhileTyping(form) {
  const shown = document.querySelector(form.dataset.check);
  let pause = 0;
  let asked = 0;
  const check = async () => {
    const number = ++asked;
    const body = new URLSearchParams(new FormData(form));
    body.set("action", "check");
    const answer = await fetch(form.getAttribute("action"), { method: "POST", body }).catch(() => null);
    // answers may overtake each other
    if (!answer?.ok || number !== asked) return;
    const next = parse(await answer.text()).querySelector(form.dataset.check);
    if (next) patch(shown, next);
  };
  form.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(check, CHECK_PAUSE_MS);
  });
  // entered before this script ran, or restored by the browser
  if ([...form.elements].some((field) => "defaultValue" in field && field.value !== field.defaultValue)) check();
}
