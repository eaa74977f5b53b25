// SPDX-License-Identifier: MIT OR Apache-2.0

//! The VM's serial console, where the VMM offers it at a path: a socket that it
//! listens at, or a file that it writes.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use stopwatch_timeline::{Event, Side, Step};

use super::recording::Recording;
use super::streams::{Line, Stream};

pub(super) const SOURCE: &str = "console";

pub(super) struct Console {
    path: PathBuf,
    ready_line: Option<String>,
    /// None until the path can be opened.
    stream: Option<Stream>,
    /// A file is at its end until more is written.
    file: Option<File>,
    /// Bytes that were in the file before this start.
    stale: u64,
}

impl Console {
    /// To be made before the VMM runs. What a file has by then is of an earlier start, and is
    /// not read: the VMM cuts the file off, or appends to it.
    pub(super) fn new(path: &Path, ready_line: Option<&str>) -> Self {
        let stale = fs::metadata(path).ok().filter(Metadata::is_file);
        Self {
            path: path.into(),
            ready_line: ready_line.map(String::from),
            stream: None,
            file: None,
            stale: stale.map_or(0, |of| of.len()),
        }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        // A file is always ready, with nothing.
        match self.file {
            Some(_) => None,
            None => self.stream.as_ref().and_then(Stream::fd),
        }
    }

    pub(super) fn look(&mut self, looked: i64, seen: i64, to: &mut Recording) {
        if self.stream.is_none() && self.open(looked).is_err() {
            return;
        }
        let Some(stream) = &mut self.stream else {
            return;
        };
        let lines = stream.lines(looked, seen);
        if let (Some(file), None) = (&self.file, stream.fd()) {
            // What more is written comes after this.
            if let Ok(copy) = file.try_clone() {
                stream.go_on(copy.into(), looked);
            }
        }
        for line in lines {
            say(line, self.ready_line.as_deref(), to);
        }
    }

    /// The line that was begun when the VMM ended.
    pub(super) fn finish(&mut self, to: &mut Recording) {
        if let Some(line) = self.stream.as_mut().and_then(Stream::rest) {
            say(line, self.ready_line.as_deref(), to);
        }
    }

    fn open(&mut self, since: i64) -> std::io::Result<()> {
        let of = fs::metadata(&self.path)?;
        let fd = if of.file_type().is_socket() {
            UnixStream::connect(&self.path)?.into()
        } else {
            let mut file = File::open(&self.path)?;
            if of.is_file() {
                if of.len() == self.stale && self.stale > 0 {
                    return Err(ErrorKind::WouldBlock.into());
                }
                if of.len() > self.stale {
                    file.seek(SeekFrom::Start(self.stale))?;
                }
                self.file = Some(file.try_clone()?);
            }
            file.into()
        };
        self.stream = Some(Stream::new(fd, since));
        Ok(())
    }
}

/// A line of the console. It may be anybody's: only lines that the kernel has, with
/// its time before them or without, are steps.
fn say(line: Line, ready_line: Option<&str>, to: &mut Recording) {
    let Line { text, at } = line;
    let step = match ready_line {
        Some(ready) if text.contains(ready) => Some(Step::Ready),
        _ => step_of(&text),
    };
    let event = Event::new(text.clone(), at, SOURCE, Side::Guest);
    match step {
        Some(step) if to.find(step).is_none() => to.put(event.step(step)),
        _ => to.put(event),
    }
}

fn step_of(line: &str) -> Option<Step> {
    match without_time(line) {
        line if line.starts_with("Linux version ") => Some(Step::Kernel),
        "Run /init as init process" => Some(Step::Initramfs),
        line if line.starts_with("Run /") && line.ends_with(" as init process") => Some(Step::Root),
        line if line.starts_with("systemd[1]: Startup finished in ") => Some(Step::Up),
        _ => None,
    }
}

/// A line without `[    0.000000] `.
fn without_time(line: &str) -> &str {
    let time = |line: &str| -> Option<usize> {
        let end = line.strip_prefix('[')?.find("] ")? + 1;
        let digits = line[1..end].trim_start();
        let valid = digits.chars().all(|c| c.is_ascii_digit() || c == '.');
        (valid && !digits.is_empty()).then_some(end + 2)
    };
    time(line).map_or(line, |end| &line[end..])
}

#[cfg(test)]
mod tests {
    use super::super::recording::tests::recording;
    use super::*;
    use crate::clocks::now;
    use std::io::Write;
    use stopwatch_timeline::Moment;

    #[test]
    fn the_kernel_s_lines_are_steps() {
        for (line, step) in [
            (
                "[    0.000000] Linux version 7.3.4+deb13-amd64 (gcc) #1",
                Some(Step::Kernel),
            ),
            ("Linux version 7.3.4", Some(Step::Kernel)),
            (
                "[   12.345678] Run /init as init process",
                Some(Step::Initramfs),
            ),
            ("[    2.1] Run /sbin/init as init process", Some(Step::Root)),
            (
                "[    9.000000] systemd[1]: Startup finished in 1s (kernel) + 2s",
                Some(Step::Up),
            ),
            ("he said: Linux version 1", None),
            ("[x] Linux version 1", None),
            ("[", None),
            ("[] ", None),
            ("[\u{1b}] Run /init as init process", None),
        ] {
            assert_eq!(step_of(line), step, "{line:?}");
        }
    }

    #[test]
    fn a_file_is_read_as_it_grows() {
        let path = std::env::temp_dir().join(format!("stopwatch-console-{}", std::process::id()));
        let mut console = Console::new(&path, Some("web is up"));
        let mut to = recording();
        let look = |console: &mut Console, to: &mut Recording| console.look(now(), now(), to);
        look(&mut console, &mut to);
        let mut file = File::create(&path).unwrap();
        file.write_all(b"[    0.000000] Linux version 7\r\n[    1")
            .unwrap();
        look(&mut console, &mut to);
        look(&mut console, &mut to);
        assert_eq!(
            to.find(Step::Kernel).unwrap().name,
            "[    0.000000] Linux version 7"
        );
        let before = now();
        file.write_all(b".000000] x\nthe web is up now\ncut off")
            .unwrap();
        look(&mut console, &mut to);
        let ready = to.find(Step::Ready).unwrap();
        assert!(ready.at.hi >= before, "{ready:?}");
        assert!(to.is_ready());
        fs::remove_file(&path).unwrap();
        let done = to.finish(None);
        assert!(done
            .events
            .iter()
            .any(|event| event.name == "[    1.000000] x"));
        assert!(done.is_ready());
    }

    #[test]
    fn what_an_earlier_start_has_left_is_not_read() {
        let path = std::env::temp_dir().join(format!("stopwatch-stale-{}", std::process::id()));
        let stale = "[    0.000000] Linux version 6\nthe web is up\n";
        for append in [false, true] {
            fs::write(&path, stale).unwrap();
            let mut console = Console::new(&path, Some("web is up"));
            let mut to = recording();
            console.look(now(), now(), &mut to);
            assert!(!to.is_ready() && to.find(Step::Kernel).is_none());
            let mut vmm = File::options()
                .append(append)
                .write(true)
                .truncate(!append)
                .open(&path)
                .unwrap();
            console.look(now(), now(), &mut to);
            vmm.write_all(b"Linux version 7\n").unwrap();
            console.look(now(), now(), &mut to);
            console.look(now(), now(), &mut to);
            assert_eq!(to.find(Step::Kernel).unwrap().name, "Linux version 7");
            assert!(!to.is_ready());
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_socket_is_connected_when_it_is_there() {
        let path = std::env::temp_dir().join(format!("stopwatch-serial-{}", std::process::id()));
        let mut console = Console::new(&path, None);
        let mut to = recording();
        console.look(now(), now(), &mut to);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        console.look(now(), now(), &mut to);
        let (mut vmm, _) = listener.accept().unwrap();
        vmm.write_all(b"Run /init as init process\n").unwrap();
        console.look(now(), now(), &mut to);
        assert!(to.find(Step::Initramfs).is_some());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_guest_s_lines_are_only_text() {
        let mut to = recording();
        let text = "\u{1b}[2J</script>=1+1".to_string();
        say(
            Line {
                text: text.clone(),
                at: Moment::exact(3),
            },
            None,
            &mut to,
        );
        assert_eq!(to.finish(None).events.last().unwrap().name, text);
    }
}
