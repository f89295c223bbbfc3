//! A process that may open hardly any file.

use std::process::{Command, Stdio};

use crate::harness::naq::Naq;
use crate::harness::nats::{TestServer, naq as program};

#[test]
fn a_verb_without_free_descriptors_says_that_too_many_files_are_open() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    // with the fewest, the system does not load the program; with the most, the verb fails later or succeeds
    let errors: Vec<String> = (4..20)
        .map(|descriptors: u32| {
            let script = format!("ulimit -n {descriptors} && exec \"$0\" queues");
            #[expect(clippy::disallowed_methods, reason = "a shell sets the limit")]
            let ended = Command::new("sh")
                .args(["-c", &script])
                .arg(program())
                .env_clear()
                .envs(naq.environment())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            String::from_utf8(ended.stderr).unwrap()
        })
        .collect();
    for words in ["internal error", "panicked"] {
        let is_found = errors.iter().any(|error| error.contains(words));
        assert!(!is_found, "{errors:#?}");
    }
    let is_reported = |error: &String| error.contains("cannot start: Too many open files");
    assert!(errors.iter().any(is_reported), "{errors:#?}");
}
