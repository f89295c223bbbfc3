// The policy of Trusted Types, which permits no other code to turn text into markup or into a script.

const policy = globalThis.trustedTypes?.createPolicy("naq", {
  createHTML: (text) => text,
  createScriptURL: (url) => {
    if (new URL(url).origin !== location.origin) throw new TypeError(`${url} is a script of another server`);
    return url;
  },
});

/** Converts text of the server to markup, as the body of a document. */
export function parse(text) {
  const html = policy ? policy.createHTML(text) : text;
  return new DOMParser().parseFromString(html, "text/html").body;
}

/** The address of a script of this server, for a worker. */
export function scriptUrl(url) {
  return policy ? policy.createScriptURL(url) : url;
}
