// Buttons that copy a text. The clipboard of scripts exists only over HTTPS and on loopback addresses; elsewhere the
// browser copies a selection.

async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(source);
    const isCopied = document.execCommand("copy");
    if (isCopied) getSelection().removeAllRanges();
    return isCopied;
  }
}

/** Adds a button to each text that can be copied. Without one, the reader selects it. */
export function offerCopies() {
  for (const source of document.querySelectorAll("pre[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${source.getAttribute("aria-label")}`);
    button.addEventListener("click", async () => {
      button.textContent = (await copy(source)) ? "Copied" : "Press Ctrl-C";
    });
    const box = document.createElement("div");
    box.className = "copyable";
    source.replaceWith(box);
    box.append(source, button);
  }
}
