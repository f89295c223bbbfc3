// Enqueues a job over NATS and waits for its outcome, with the NATS client for Node and no naq: see README.md.
import { readFileSync } from "node:fs";
import { jetstream } from "@nats-io/jetstream";
import { connect, nkeyAuthenticator } from "@nats-io/transport-node";

const { NAQ_NATS_URL: servers, NAQ_TOKEN: token, NAQ_NKEY: nkey, NAQ_TLS_CA: caFile } = process.env;
const authenticator = nkey && nkeyAuthenticator(new TextEncoder().encode(readFileSync(nkey, "utf8").trim()));
// this client uses TLS whenever the server offers it; naq's managed server has a certificate of its own
const nc = await connect({ servers, token, authenticator, tls: caFile && { caFile } });
const id = crypto.randomUUID();
// subscribe before the enqueue: no change of the job's record is missed
const events = nc.subscribe(`naq.event.${id}`);
const envelope = { command: "echo", args: ["hello from Node"], timeout: "1m" };
await jetstream(nc).publish(`naq.queue.build.${id}`, JSON.stringify(envelope));

const deadline = setTimeout(() => events.unsubscribe(), 60_000);
const ended = ["succeeded", "failed", "cancelled", "expired", "rejected"];
let record = { state: "unfinished after 60 s" };
for await (const event of events) {
  record = event.json();
  if (ended.includes(record.state)) break;
}
clearTimeout(deadline);
await nc.close();
console.log(record.state, (record.stdout?.text ?? record.error ?? "").trim());
process.exitCode = record.state === "succeeded" ? 0 : 1;
