//! The list of the children of a process, kept open.

use std::fs::File;
use std::io::{self, Read, Seek};

/// The children of the first thread of a process.
#[derive(Debug)]
pub(super) struct Children {
    file: File,
    text: String,
}

impl Children {
    /// Opens the list. Fails on a kernel without such lists in `/proc`.
    pub(super) fn open(pid: i32) -> io::Result<Children> {
        Ok(Children {
            file: File::open(format!("/proc/{pid}/task/{pid}/children"))?,
            text: String::new(),
        })
    }

    /// The process ids.
    pub(super) fn pids(&mut self) -> io::Result<impl Iterator<Item = i32>> {
        let text = self.read()?;
        Ok(text
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok()))
    }

    /// Whether the process has no child.
    pub(super) fn are_none(&mut self) -> bool {
        self.read().is_ok_and(str::is_empty)
    }

    fn read(&mut self) -> io::Result<&str> {
        self.text.clear();
        self.file.rewind()?;
        self.file.read_to_string(&mut self.text)?;
        Ok(&self.text)
    }
}
