//! What the fuzz targets check of this crate, with any bytes. `fuzz/README.md` says how they are run;
//! the test replays the corpus.

use crate::config;

/// Any bytes as `naq.toml`: settings, or one error of one line.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = config::check_text(&text) {
        let error = error.to_string();
        assert!(
            !error.contains('\n'),
            "an error of several lines: {error:?}"
        );
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::replay;

    #[test]
    fn the_fuzz_corpus_holds() {
        replay("config", super::config);
    }
}
