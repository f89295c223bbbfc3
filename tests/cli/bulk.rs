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
