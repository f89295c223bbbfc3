// The streams and buckets that a producer may have to create, as docs/protocol.md describes them.
const NS_PER_SECOND = 1_000_000_000;

/** The settings of a stream, as the JetStream API names them. */
export type Layout = { name: string; [setting: string]: unknown };

/** The stream of a queue. */
export function queueStream(prefix: string, queue: string): Layout {
  return {
    name: `${prefix}_queue_${queue}`,
    description: `naq queue ${queue}`,
    subjects: [
      `${prefix}.queue.${queue}`,
      `${prefix}.queue.${queue}.*`,
      `${prefix}.delayed.${queue}.*`,
      `${prefix}.route.${queue}.*.*`,
      `${prefix}.recheck.${queue}.*`,
    ],
    ...common("workqueue", "old"),
    max_msgs_per_subject: -1,
    allow_msg_schedules: true,
    allow_atomic: true,
    deny_delete: false,
    republish: { src: `${prefix}.*.>`, dest: `${prefix}.event.{{wildcard(1)}}.>` },
  };
}

/** The consumer that all workers of a queue share. */
export function workerConsumer(prefix: string, queue: string): Layout {
  return {
    name: `${prefix}-worker`,
    durable_name: `${prefix}-worker`,
    filter_subjects: [`${prefix}.queue.${queue}`, `${prefix}.queue.${queue}.*`],
    ack_policy: "explicit",
    ack_wait: 30 * NS_PER_SECOND,
    deliver_policy: "all",
    replay_policy: "instant",
    max_deliver: -1,
    max_waiting: 65_536,
    max_ack_pending: -1,
  };
}

/** The bucket of the schedules. */
export function schedulesBucket(prefix: string): Layout {
  return bucket(`${prefix}_scheduled_jobs`, "every schedule", `${prefix}.schedule.>`);
}

/** The bucket of the records. */
export function resultsBucket(prefix: string): Layout {
  return bucket(`${prefix}_results`, "the record of every job", `${prefix}.event.>`);
}

function bucket(name: string, description: string, events: string): Layout {
  return {
    name: `KV_${name}`,
    description,
    subjects: [`$KV.${name}.>`],
    ...common("limits", "new"),
    max_msgs_per_subject: 1,
    allow_direct: true,
    allow_msg_ttl: true,
    subject_delete_marker_ttl: 600 * NS_PER_SECOND,
    deny_delete: true,
    republish: { src: `$KV.${name}.>`, dest: events },
  };
}

function common(retention: string, discard: string): { [setting: string]: unknown } {
  return {
    retention,
    discard,
    storage: "file",
    max_consumers: -1,
    max_msgs: -1,
    max_bytes: -1,
    max_age: 0,
    max_msg_size: -1,
    duplicate_window: 120 * NS_PER_SECOND,
    allow_rollup_hdrs: true,
  };
}
