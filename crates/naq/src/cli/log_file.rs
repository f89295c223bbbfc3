//! The log file: a thread of its own writes it, and each day begins a new one.
//!
//! The lines of today are always in `log_file_path` itself, so `tail -F` follows them, and a file
//! that root created for naq in a folder where naq may create none works. `tracing_appender` has a
//! rotation too, which fits neither: it writes to a file with the date in its name. So this uses
//! only its thread and its bounded queue.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use chrono::NaiveDate;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::render;
use naq_protocol::Timestamp;

/// Maximum number of lines that wait for the disk. Further lines are lost, and counted.
const QUEUED_LINES_MAX: usize = 8_192;

/// Number of files of earlier days that are kept, as the help of the setting `log_file_path` says.
const EARLIER_FILES_MAX: usize = 7;

/// The thread that writes the log file. When this is dropped, the lines that wait are written, for
/// which they have one second.
pub(super) struct LogFile {
    thread: Option<WorkerGuard>,
    lost: Arc<LostLines>,
}

impl LogFile {
    /// Opens the file, and starts the thread. Returns with it what the log is written to.
    ///
    /// # Errors
    /// Returns the error of the operating system if the file cannot be opened or created.
    pub(super) fn open(path: &Path) -> io::Result<(NonBlocking, LogFile)> {
        let lost = Arc::new(LostLines::default());
        let file = DailyFile {
            path: path.to_owned(),
            file: append(path)?,
            day: None,
            lost: Arc::clone(&lost),
            reported: 0,
        };
        // Lossy: a worker must not wait for a slow disk.
        let (writer, thread) = NonBlockingBuilder::default()
            .buffered_lines_limit(QUEUED_LINES_MAX)
            .lossy(true)
            .thread_name("log file")
            .finish(file);
        let _ = lost.not_queued.set(writer.error_counter());
        let thread = Some(thread);
        Ok((writer, LogFile { thread, lost }))
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        // The thread ends first: what it cannot write is lost too.
        drop(self.thread.take());
        let lost = self.lost.count();
        if lost > 0 {
            let lost = render::count(lost as u64, "line");
            render::note(format_args!("{lost} of the log could not be written"));
        }
    }
}

/// The lines that did not reach the file.
#[derive(Default)]
struct LostLines {
    /// Lines for which the queue had no room.
    not_queued: OnceLock<ErrorCounter>,
    /// Lines that the operating system refused.
    not_written: AtomicUsize,
}

impl LostLines {
    fn count(&self) -> usize {
        let not_queued = self.not_queued.get().map_or(0, ErrorCounter::dropped_lines);
        not_queued.saturating_add(self.not_written.load(Ordering::Relaxed))
    }
}

/// The file, on the thread that writes it.
struct DailyFile {
    path: PathBuf,
    file: File,
    /// The day in UTC, as in the lines, on which the file was opened. `None` before the first line.
    day: Option<NaiveDate>,
    lost: Arc<LostLines>,
    /// How many lost lines the log itself has reported.
    reported: usize,
}

impl DailyFile {
    /// Continues in a new file if the lines in this one are of an earlier day.
    fn begin_day(&mut self, today: NaiveDate) -> io::Result<()> {
        // Also if this fails: it is tried, and reported, once a day.
        self.day = Some(today);
        let rotated = rotate(&self.path, today);
        // Also after an error, since the file may have been renamed before it.
        self.file = append(&self.path)?;
        rotated
    }

    /// Logs that lines were lost, once it can. Not after a failed write: that line would be lost as
    /// well, and be followed by the next one.
    fn report_lost(&mut self) {
        let lost = self.lost.count();
        if lost > self.reported {
            self.reported = lost;
            tracing::warn!(lost, "lines of this log could not be written");
        }
    }
}

impl Write for DailyFile {
    /// Writes a whole line. Never fails, since nobody receives the error: a failure is counted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let today = render::now().0.date_naive();
        if self.day != Some(today)
            && let Err(error) = self.begin_day(today)
        {
            tracing::warn!(%error, "cannot rotate the log file");
        }
        match self.file.write_all(line) {
            Ok(()) => self.report_lost(),
            Err(_) => {
                self.lost.not_written.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Renames the file to `PATH.DAY` if its last line is of an earlier day, and removes the oldest of
/// such files. Any number of processes may write to the file and do this at the same time.
fn rotate(path: &Path, today: NaiveDate) -> io::Result<()> {
    let file = append(path)?;
    let metadata = file.metadata()?;
    let day = Timestamp::from(metadata.modified()?).0.date_naive();
    // A pipe or a device, such as /dev/stderr, keeps its name.
    if !metadata.is_file() || metadata.len() == 0 || day >= today {
        return Ok(());
    }
    // One process renames the file. Another one that has opened the same file waits here, and then
    // finds that the path leads to a new file, which must not be renamed.
    file.lock()?;
    let is_renamed = match fs::metadata(path) {
        Ok(current) => (current.dev(), current.ino()) != (metadata.dev(), metadata.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    let mut earlier = path.as_os_str().to_owned();
    earlier.push(format!(".{day}"));
    // It exists if the clock was set back. Then these lines stay with those of today.
    if !is_renamed && !fs::exists(&earlier)? {
        fs::rename(path, &earlier)?;
        remove_oldest(path)?;
    }
    Ok(())
}

/// Removes all files of earlier days but the latest [`EARLIER_FILES_MAX`].
fn remove_oldest(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(());
    };
    let mut earlier = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.file_name();
        let day = file
            .to_str()
            .and_then(|file| file.strip_prefix(name)?.strip_prefix('.'))
            .and_then(|day| day.parse::<NaiveDate>().ok());
        if let Some(day) = day {
            earlier.push((day, file));
        }
    }
    earlier.sort();
    let surplus = earlier.len().saturating_sub(EARLIER_FILES_MAX);
    for (_, file) in earlier.drain(..surplus) {
        fs::remove_file(folder.join(file))?;
    }
    Ok(())
}
