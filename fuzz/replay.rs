//! What `cargo test` does with the corpus. The crates with targets include this file in their tests.

/// Passes each file of a target's corpus to the target.
pub(super) fn replay(target: &str, check: fn(&[u8])) {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus");
    let files: Vec<_> = std::fs::read_dir(format!("{corpus}/{target}"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert!(!files.is_empty(), "the corpus of {target} is empty");
    for file in files {
        check(&std::fs::read(file).unwrap());
    }
}
