//! Many enqueues under way at once, into queues that are not there yet.

use naq_jetstream::NewJob;
use naq_protocol::{JobId, QueueName};

use crate::harness::naq::Naq;
use crate::harness::nats::TestServer;

#[test]
fn a_queue_that_is_made_on_the_way_has_each_job_once_and_in_order() {
    // more than are under way at once, so that some are sent before the queue is missed
    const JOBS: u64 = 6_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    naq.block_on(async {
        let mut bulk = naq.client().bulk();
        for number in 0..JOBS {
            for queue in ["left", "right"] {
                let id = JobId::new(format!("{queue}-{number}")).unwrap();
                let queue = QueueName::new(queue).unwrap();
                let job = NewJob::with_id(id, queue, r#"{"command":"true"}"#.into());
                bulk.push(job).await.unwrap();
            }
        }
        assert_eq!(bulk.finish().await.unwrap(), 2 * JOBS);
        assert_eq!(
            (bulk.duplicates(), bulk.take_confirmed().len()),
            (0, 12_000)
        );
        assert!(bulk.take_rejected().is_none());
        let jetstream = async_nats::jetstream::new(naq.nats().clone());
        for queue in ["left", "right"] {
            let name = format!("naq_queue_{queue}");
            let stream = jetstream.get_stream(name).await.unwrap();
            let state = &stream.cached_info().state;
            assert_eq!((state.messages, state.last_sequence), (JOBS, JOBS));
            for number in (0..JOBS).step_by(499) {
                let message = stream.get_raw_message(number + 1).await.unwrap();
                let subject = format!("naq.queue.{queue}.{queue}-{number}");
                assert_eq!(message.subject.as_str(), subject);
            }
        }
    });
}

#[test]
fn a_reader_of_reports_that_stops_early_stops_no_change() {
    const CLOSED: &str =
        "standard output is closed; naq makes the other changes without printing them";
    // more ids than a pipe holds
    const JOBS: usize = 20_000;
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let file = naq.file("jobs", "{\"command\":\"true\"}\n".repeat(JOBS));
    let file = file.to_str().unwrap();
    let mut bulk = naq.cli(["enqueue", "-q", "idle", "-f", file]).spawn();
    // `| head -1`
    assert!(!bulk.read_some().is_empty());
    let (status, errors) = bulk.close_stdout_and_read_errors();
    assert!(status.success(), "{errors}");
    assert_eq!(errors.matches(CLOSED).count(), 1, "{errors}");
    assert!(errors.contains("20000 jobs enqueued"), "{errors}");
    assert_eq!(naq.stream_messages("idle"), JOBS as u64);

    let one = ["enqueue", "-q", "few", "--id", "a", "--", "true"];
    let (status, errors) = naq.cli(one).spawn().close_stdout_and_read_errors();
    assert!(status.success() && errors.contains(CLOSED), "{errors}");
    naq.enqueue(&["-q", "few", "--id", "b", "--", "true"]);
    assert_eq!(naq.stream_messages("few"), 2);
    let cancel = naq.cli(["cancel", "a", "b"]).spawn();
    let (status, errors) = cancel.close_stdout_and_read_errors();
    assert!(status.success() && errors.contains(CLOSED), "{errors}");
    naq.wait_for_messages("few", 0);
}
