//! A job that uses more memory than its limit (row 25).

use naq_protocol::{Reason, State};

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

#[test]
fn a_job_over_its_memory_limit_is_killed_and_the_worker_lives() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let _worker = naq.worker(&["build"]).spawn();
    // keeps all that it reads in memory
    let greedy = serde_json::json!({
        "script": "x=$(head -c 400000000 /dev/zero | tr '\\0' a); echo ${#x}; sleep 60",
        "limits": {"memory": "64M"},
    });
    let job = naq.publish("build", greedy.to_string());
    let record = naq.wait_ended(&job);
    assert_eq!(record.state(), State::Failed);
    assert_eq!(record.reason(), Some(Reason::Oom), "{record:#?}");
    naq.assert_jobs_still_run("build");
}
