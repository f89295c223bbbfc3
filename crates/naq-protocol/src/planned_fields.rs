//! The names of envelope fields that are planned.

/// Fields that later versions of naq will define and that change whether, when or how a job runs. A
/// worker of this version would run the job without them, so it rejects the job.
pub(crate) const PLANNED_FIELDS: [&str; 11] = [
    "unique",
    "rate",
    "priority",
    "share",
    "batch",
    "need",
    "approval",
    "on_success",
    "on_failure",
    "on_end",
    "record",
];
