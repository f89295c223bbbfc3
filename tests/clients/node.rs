//! `clients/node`: its tests and types.

use super::{client, command, succeeds};
use crate::harness::{find_program, is_required, skipped};

#[test]
fn the_node_client_passes_its_tests() {
    let without = "clients/node is not tested";
    let Some(node) = find_program("node", without) else {
        return;
    };
    let folder = client("node");
    if !folder.join("node_modules/typescript").is_dir() {
        let install = "run `npm ci` in clients/node";
        assert!(!is_required(), "{install}");
        skipped(&format!("{without}: {install}"));
        return;
    }
    let run = |arguments: &[&str]| {
        let mut command = command(&node, &folder);
        command.args(arguments);
        succeeds(command)
    };
    let compiler = "node_modules/typescript/bin/tsc";
    run(&[compiler, "-p", "tsconfig.build.json"]);
    run(&[compiler, "--noEmit"]);
    let tests =
        ["envelope", "jobs", "package", "settings"].map(|name| format!("test/{name}.test.mjs"));
    let mut arguments = vec!["--test", "--test-timeout=180000"];
    arguments.extend(tests.iter().map(String::as_str));
    let printed = run(&arguments);
    assert!(printed.contains("# fail 0"), "{printed}");
}
