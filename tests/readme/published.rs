//! What the pages publish with the program `nats`, which the tests do not have.

use super::not_run::{blocks, find_row};
use crate::harness::naq::{Naq, text};
use crate::harness::nats::TestServer;

/// Another client publishes it here.
#[test]
fn what_the_pages_publish_is_a_job() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let script = naq.file("script.sh", "#!/bin/sh\necho \"ran $*\"\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(script, mode).unwrap();
    let _worker = naq.worker(&["build"]).spawn();
    let mut printed: Vec<String> = Vec::new();
    for (page, block) in blocks() {
        if find_row(&page, &block).is_none() {
            continue;
        }
        let commands = block.lines.join("\n").replace("\\\n", " ");
        for line in commands.lines().filter(|line| line.starts_with("nats ")) {
            let words = shlex::split(line).unwrap();
            let at = words.iter().position(|word| word == "pub").unwrap();
            let queue = words[at + 1].strip_prefix("naq.queue.").unwrap();
            let ended = naq.wait_ended(&naq.publish(queue, words[at + 2].as_str()));
            printed.push(text(ended.stdout.as_ref()).to_owned());
        }
    }
    printed.sort();
    assert_eq!(printed, ["ran \n", "ran arg\n", "ran arg\n"]);
}
