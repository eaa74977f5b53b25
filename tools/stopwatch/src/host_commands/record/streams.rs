// SPDX-License-Identifier: MIT OR Apache-2.0

//! Bytes that come through a descriptor, and when they came: after the last time at
//! which there were none, and before they were seen.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{fcntl_getfl, fcntl_setfl, OFlags};
use rustix::io::{read, Errno};
use stopwatch_timeline::Moment;

use crate::clocks::now;

/// The longest line; what is longer is cut.
const MAX_LINE: usize = 240;

/// In one look. More waits for the next, and its interval grows by that.
const MAX_READ: usize = 256 << 10;

/// A line, without its end, and when its first byte came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) at: Moment,
}

pub(super) struct Stream {
    /// None at its end.
    fd: Option<OwnedFd>,
    /// There was nothing to read then.
    empty_at: i64,
    cutter: Cutter,
}

impl Stream {
    /// Nothing came before `since`.
    pub(super) fn new(fd: OwnedFd, since: i64) -> Self {
        // If that failed, a read could block; it does not fail for an open descriptor.
        if let Ok(flags) = fcntl_getfl(&fd) {
            let _ = fcntl_setfl(&fd, flags | OFlags::NONBLOCK);
        }
        Self {
            fd: Some(fd),
            empty_at: since,
            cutter: Cutter::default(),
        }
    }

    /// Reads on from another descriptor, of which nothing came before `since`. A line
    /// that was begun goes on.
    pub(super) fn go_on(&mut self, fd: OwnedFd, since: i64) {
        self.fd = Some(fd);
        self.empty_at = since;
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// The lines that were finished since the last look. `looked` is before this look
    /// began, `seen` after the wait in it.
    pub(super) fn lines(&mut self, looked: i64, seen: i64) -> Vec<Line> {
        let mut lines = Vec::new();
        for (bytes, at) in self.chunks(looked, seen) {
            self.cutter.cut(&bytes, at, &mut lines);
        }
        lines
    }

    /// The line that was begun, if any: there comes no more.
    pub(super) fn rest(&mut self) -> Option<Line> {
        self.cutter.rest()
    }

    /// The bytes one by one.
    pub(super) fn bytes(&mut self, looked: i64, seen: i64) -> Vec<(u8, Moment)> {
        let chunks = self.chunks(looked, seen).into_iter();
        chunks
            .flat_map(|(bytes, at)| bytes.into_iter().map(move |byte| (byte, at)))
            .collect()
    }

    fn chunks(&mut self, looked: i64, seen: i64) -> Vec<(Vec<u8>, Moment)> {
        let mut chunks = Vec::new();
        let mut total = 0;
        let mut seen = seen;
        let mut tried = looked;
        while let Some(fd) = &self.fd {
            let mut buffer = [0; 4096];
            match read(fd, &mut buffer) {
                Ok(0) => self.fd = None,
                Ok(length) => {
                    seen = seen.max(now());
                    chunks.push((
                        buffer[..length].to_vec(),
                        Moment::between(self.empty_at, seen),
                    ));
                    total += length;
                    if total >= MAX_READ {
                        break;
                    }
                    tried = seen;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.empty_at = tried;
                    break;
                }
                Err(_) => self.fd = None,
            }
        }
        chunks
    }
}

/// Makes lines of bytes.
#[derive(Default)]
struct Cutter {
    line: Vec<u8>,
    begun: Option<Moment>,
}

impl Cutter {
    fn cut(&mut self, bytes: &[u8], at: Moment, lines: &mut Vec<Line>) {
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => lines.extend(self.rest()),
                _ => {
                    self.begun.get_or_insert(at);
                    if self.line.len() < MAX_LINE {
                        self.line.push(byte);
                    }
                }
            }
        }
    }

    /// The line that was begun, if any.
    fn rest(&mut self) -> Option<Line> {
        let at = self.begun.take()?;
        let text = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        (!text.is_empty()).then_some(Line { text, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn pair(since: i64) -> (UnixStream, Stream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (theirs, Stream::new(ours.into(), since))
    }

    #[test]
    fn a_line_came_between_two_looks() {
        let since = now();
        let (mut vmm, mut stream) = pair(since);
        assert!(stream.lines(since + 1, since + 2).is_empty());
        vmm.write_all(b"SeaBIOS (ver").unwrap();
        assert!(
            stream.lines(now(), now()).is_empty(),
            "the line is not over"
        );
        let first = now();
        vmm.write_all(b"sion 1)\r\n\r\nBooting").unwrap();
        let lines = stream.lines(now(), now());
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].text, "SeaBIOS (version 1)");
        // It is as old as its first byte.
        assert!(
            lines[0].at.lo == since + 1 && lines[0].at.hi <= first,
            "{lines:?}"
        );
        drop(vmm);
        assert!(stream.lines(now(), now()).is_empty());
        assert!(stream.fd().is_none());
        let last = stream.rest().unwrap();
        assert_eq!(last.text, "Booting");
        assert!(last.at.lo > since + 1 && last.at.lo <= first, "{last:?}");
        assert!(stream.lines(now(), now()).is_empty() && stream.rest().is_none());
    }

    #[test]
    fn long_lines_are_cut_and_odd_bytes_are_told() {
        let (mut vmm, mut stream) = pair(0);
        let mut bytes = vec![b'x'; 100_000];
        bytes.push(b'\n');
        bytes.extend(b"\xff\xfe\x1b[0m\n   \n\0\n");
        std::thread::spawn(move || vmm.write_all(&bytes).unwrap());
        let mut lines = Vec::new();
        while stream.fd().is_some() {
            lines.extend(stream.lines(now(), now()));
        }
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].text.len(), MAX_LINE);
        assert_eq!(lines[1].text, "\u{fffd}\u{fffd}\u{1b}[0m");
    }

    #[test]
    fn bytes_come_one_by_one() {
        let (mut vmm, mut stream) = pair(0);
        vmm.write_all(&[0x01, 0xff]).unwrap();
        let codes: Vec<_> = stream
            .bytes(now(), now())
            .iter()
            .map(|code| code.0)
            .collect();
        assert_eq!(codes, [0x01, 0xff]);
    }
}
