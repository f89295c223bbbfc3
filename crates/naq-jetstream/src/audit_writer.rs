//! The kinds of programs that write entries of the audit.

/// Who writes entries. Each writes under subjects of its own, so that permissions can tell an identity that was
/// checked from one that is only claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditWriter {
    /// A dashboard, which checks the token of who changes something.
    Dashboard,
    /// The command line, which can only say as whom it runs.
    CommandLine,
}

impl AuditWriter {
    /// The token of the writer in subjects.
    pub(crate) fn token(self) -> &'static str {
        match self {
            AuditWriter::Dashboard => "web",
            AuditWriter::CommandLine => "cli",
        }
    }
}
