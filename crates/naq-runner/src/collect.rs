//! Collects everything that a job writes and passes it to the captures, the live
//! sink and the control reader.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::capture::Capture;
use super::completion::Captured;
use super::control::ControlReader;
use super::live_output::{LiveSink, StreamKind};
use super::mask::{Mask, MaskStream};
use super::pipes::{PipeKind, ReadOutcome, read_chunk};

/// Reads after which draining a pipe ends. More than any pipe can contain, so only
/// a process outside the job's tree that still writes can reach it.
const DRAIN_READS_MAX: usize = 1024;

#[derive(Debug)]
struct CapturedStream {
    kind: StreamKind,
    mask: MaskStream,
    capture: Capture,
    bytes: u64,
}

/// Collects the output of one job.
#[derive(Debug)]
pub(super) struct Collector {
    outputs: [CapturedStream; 2],
    pub(super) control: ControlReader,
    live: Option<LiveSink>,
    is_live: bool,
    pub(super) live_dropped_bytes: u64,
    masked: Vec<u8>,
}

impl Collector {
    pub(super) fn new(
        output_bytes: u64,
        control_line_bytes_max: usize,
        mask: &Mask,
        live: Option<LiveSink>,
    ) -> Collector {
        let output = |kind| CapturedStream {
            kind,
            mask: MaskStream::new(mask.clone()),
            capture: Capture::new(output_bytes),
            bytes: 0,
        };
        let is_live = live
            .as_ref()
            .is_some_and(|live| live.start_after().is_zero());
        Collector {
            outputs: [output(StreamKind::Stdout), output(StreamKind::Stderr)],
            control: ControlReader::new(control_line_bytes_max, mask.clone()),
            live,
            is_live,
            live_dropped_bytes: 0,
            masked: Vec::new(),
        }
    }

    /// The live sink, if the job has one.
    pub(super) fn live(&self) -> Option<&LiveSink> {
        self.live.as_ref()
    }

    /// The age of the job at which to call [`Collector::start_live_output`]; `None`
    /// if there is no live sink or live output has started.
    pub(super) fn live_output_after(&self) -> Option<Duration> {
        let live = self.live.as_ref().filter(|_| !self.is_live);
        live.map(LiveSink::start_after)
    }

    /// Starts live output: sends what was kept so far, then every further piece.
    pub(super) fn start_live_output(&mut self) {
        if std::mem::replace(&mut self.is_live, true) {
            return;
        }
        let Some(live) = &self.live else {
            return;
        };
        for output in &self.outputs {
            for (offset, part) in output.capture.contents() {
                self.live_dropped_bytes += live.send(output.kind, offset, part);
            }
        }
    }

    /// Adds a piece read from a pipe. Returns true if control messages are queued.
    pub(super) fn push(&mut self, source: PipeKind, piece: &[u8]) -> bool {
        let output = match source {
            PipeKind::Stdout => &mut self.outputs[0],
            PipeKind::Stderr => &mut self.outputs[1],
            PipeKind::Control => return self.control.push(piece),
        };
        output.bytes += piece.len() as u64;
        let piece = if output.mask.is_transparent() {
            piece
        } else {
            self.masked.clear();
            output.mask.push(piece, &mut self.masked);
            &self.masked
        };
        let offset = output.capture.pushed_bytes();
        output.capture.push(piece);
        if self.is_live
            && let Some(live) = &self.live
        {
            self.live_dropped_bytes += live.send(output.kind, offset, piece);
        }
        false
    }

    /// Reads the rest of a pipe whose job is over.
    pub(super) fn drain(&mut self, source: PipeKind, fd: &OwnedFd, buffer: &mut [u8]) {
        for _ in 0..DRAIN_READS_MAX {
            match read_chunk(fd, buffer) {
                ReadOutcome::Bytes(count) => {
                    self.push(source, &buffer[..count]);
                }
                ReadOutcome::WouldBlock | ReadOutcome::Eof => return,
            }
        }
    }

    /// Ends all streams. Returns standard output and standard error.
    pub(super) fn finish(&mut self) -> [Captured; 2] {
        self.control.finish();
        let live = self.live.as_ref().filter(|_| self.is_live);
        let mut dropped = 0;
        let captured = self.outputs.each_mut().map(|output| {
            let mut rest = Vec::new();
            output.mask.finish(&mut rest);
            let offset = output.capture.pushed_bytes();
            output.capture.push(&rest);
            if let Some(live) = live {
                dropped += live.send(output.kind, offset, &rest);
            }
            std::mem::replace(&mut output.capture, Capture::new(0)).finish(output.bytes)
        });
        self.live_dropped_bytes += dropped;
        // Dropping the sender ends the stream for the reader of live output.
        self.live = None;
        captured
    }
}
