// The stream of updates from the server. The topics of a stream change while it is open. A page has its own one,
// or shares that of a worker with the other pages of the browser.

/** Time until a lost stream is opened again, in milliseconds. */
const RETRY_MS = 3000;

/** The events of topics. The id of an event is its topic. */
const KINDS = ["overview", "job", "output-start", "output", "flow", "action", "end", "closed"];

export class LiveStream {
  #url;
  #emit;
  #topics = new Set();
  #source = null;
  #number = "";
  #sent = "";
  #retry = 0;
  /** `still` without a stream, `live`, `away` until it is open again, or `out` without a session. */
  state = "still";

  /** `emit` gets the events, `{ topic, kind, data }`, and each new `{ state }`. */
  constructor(url, emit) {
    this.#url = url;
    this.#emit = emit;
  }

  /** Sets the topics. Without one, no stream is open. */
  set(topics) {
    this.#topics = new Set(topics);
    if (this.#topics.size === 0) this.#close("still");
    else if (!this.#source && !this.#retry) this.#open();
    else this.#send();
  }

  /** Asks the server whether the session has ended, as after a logout. */
  async check() {
    const me = this.#url.replace(/live$/, "api/me");
    const answer = await fetch(me, { cache: "no-store" }).catch(() => null);
    if (answer?.status === 401) this.#close("out");
  }

  #show(state) {
    if (this.state === state) return;
    this.state = state;
    this.#emit({ state });
  }

  #close(state) {
    clearTimeout(this.#retry);
    this.#retry = 0;
    this.#source?.close();
    this.#source = null;
    this.#number = "";
    this.#show(state);
  }

  #query() {
    return [...this.#topics].join("&");
  }

  #open() {
    this.#close(this.state);
    this.#sent = this.#query();
    const source = new EventSource(`${this.#url}?${this.#sent}`);
    this.#source = source;
    source.addEventListener("open", () => this.#show("live"));
    // A browser would open a lost stream again with its first topics, and never one that was refused, as by a proxy
    // without a dashboard.
    source.addEventListener("error", () => {
      this.#close("away");
      this.#retry = setTimeout(() => this.#open(), RETRY_MS);
      this.check();
    });
    source.addEventListener("stream", ({ data }) => {
      this.#number = data;
      this.#send();
    });
    for (const kind of KINDS) {
      source.addEventListener(kind, ({ lastEventId: topic, data }) => {
        if (!this.#topics.has(topic)) return;
        if (kind !== "closed") return this.#emit({ topic, kind, data });
        // the server could not read the topic, and reads it again when it is asked
        setTimeout(() => this.#topics.has(topic) && this.#send(true), RETRY_MS);
      });
    }
  }

  /** Sends the topics to the server, if they differ from those that it has. */
  async #send(isRepeated = false) {
    const topics = this.#query();
    // the stream is not open yet, and sends its number when it is
    if (!this.#number || (topics === this.#sent && !isRepeated)) return;
    const source = this.#source;
    this.#sent = topics;
    const request = { method: "POST", body: new URLSearchParams(topics) };
    const answer = await fetch(`${this.#url}/${this.#number}`, request).catch(() => null);
    // the dashboard does not have this stream any more
    if (!answer?.ok && this.#source === source) this.#open();
  }
}
