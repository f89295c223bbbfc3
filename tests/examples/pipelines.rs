//! `examples/pipelines`.

use std::io::Write;
use std::process::Stdio;

use super::{Served, example, text};

#[test]
fn steps_of_a_pipeline_pass_their_outputs_on() {
    let served = Served::start("pipelines");
    let script = example("pipelines/two-steps.sh");
    let printed = served.command(script).arg("b a b").output().unwrap();
    assert_eq!(text(&printed), "2 b\n1 a\n{\"source\": \"two-steps\"}\n");
}

#[test]
fn a_join_gets_what_the_jobs_of_a_map_have_left() {
    let served = Served::start("pipelines");
    for _ in 0..2 {
        let mut script = served
            .command(example("pipelines/map-join.sh"))
            .arg("lengths")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        script
            .stdin
            .take()
            .unwrap()
            .write_all(b"one\nthree\n")
            .unwrap();
        let printed = script.wait_with_output().unwrap();
        assert_eq!(text(&printed), "succeeded 3\nsucceeded 5\n");
    }
}
