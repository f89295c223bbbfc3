// Native dialogs of a page. The browser keeps the focus in one, and returns it afterwards.

/** Opens a dialog that closes by its buttons, by Escape, and by a click outside of it. */
export function openDialog(dialog) {
  if (document.querySelector("dialog[open]")) return false;
  if (!dialog.dataset.prepared) {
    dialog.dataset.prepared = "yes";
    dialog.addEventListener("click", ({ target }) => {
      if (target === dialog || target.closest("[data-close]")) dialog.close();
    });
  }
  dialog.showModal();
  return true;
}

/** Whether a key is for what has the focus, and not for the page. */
export function isTyping(event) {
  const field = "input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]";
  return event.isComposing || Boolean(event.target.closest?.(field));
}
