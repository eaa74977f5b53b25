// SPDX-License-Identifier: MIT OR Apache-2.0

//! As much of the QEMU Machine Protocol as hotplug takes: commands and their
//! answers, descriptors that go with one, and waiting for an event.

use std::io::{self, BufRead, BufReader, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{json, Value};
use thiserror::Error;

/// How long QEMU may take to answer. It answers at once, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// No message of QEMU's is nearly as long.
const MAX_MESSAGE: u64 = 16 << 20;

/// Why a running QEMU did not do it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QmpError {
    /// There is no QEMU behind the socket.
    #[error(
        "cannot connect to {}: {error}; start QEMU with `-qmp unix:{},server=on,wait=off`",
        socket.display(),
        socket.display()
    )]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What connect(2) said.
        error: io::Error,
    },
    /// It does not talk any more.
    #[error("the connection to QEMU broke: {0}; see whether QEMU still runs")]
    Connection(#[from] io::Error),
    /// It does not answer.
    #[error(
        "QEMU did not answer {0} in time; another program may hold its QMP socket, or it hangs"
    )]
    Silence(String),
    /// It says what is not QMP.
    #[error("what answers is no QEMU: {0}; expected the socket of `-qmp`")]
    Strange(String),
    /// It says no.
    #[error("QEMU refuses {command}: {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's own words.
        description: String,
    },
    /// The guest keeps the device.
    #[error(
        "QEMU asked the guest to give up device \"{id}\", and the guest did not within {} s; its \
         driver may be in use, or not loaded at all: close the files on the device in the guest and \
         try again",
        limit.as_secs()
    )]
    NotReleased {
        /// The device's id.
        id: String,
        /// How long it was waited for.
        limit: Duration,
    },
}

/// A QEMU that runs, by its QMP socket.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    patience: Duration,
    /// What came of a message whose end did not.
    begun: Vec<u8>,
    /// Events that came between command and answer.
    events: Vec<Value>,
}

impl Qmp {
    /// Connects to a socket that QEMU made for `-qmp unix:PATH,server=on`.
    ///
    /// # Errors
    ///
    /// [`QmpError::Connect`], and those of every command.
    pub fn connect(socket: impl AsRef<Path>) -> Result<Self, QmpError> {
        let socket = socket.as_ref();
        let stream = UnixStream::connect(socket).map_err(|error| QmpError::Connect {
            socket: socket.into(),
            error,
        })?;
        Self::over(stream, PATIENCE)
    }

    /// Talks over a socket that is connected already. Each answer may take so long.
    ///
    /// # Errors
    ///
    /// Those of every command.
    pub fn over(stream: UnixStream, patience: Duration) -> Result<Self, QmpError> {
        let mut qmp = Self {
            stream: BufReader::new(stream),
            patience,
            begun: Vec::new(),
            events: Vec::new(),
        };
        let greeting = qmp
            .message(Instant::now() + patience)?
            .ok_or_else(|| QmpError::Silence("a connection".into()))?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Strange(greeting.to_string()));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Gives a command, and returns what it returns.
    ///
    /// # Errors
    ///
    /// [`QmpError::Refused`], and that the connection broke.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.send(command, arguments, None)
    }

    /// `getfd`: QEMU gets a copy of `fd`, and knows it as `name`.
    ///
    /// # Errors
    ///
    /// Those of [`Qmp::execute`].
    pub fn get_fd(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), QmpError> {
        self.send("getfd", json!({ "fdname": name }), Some(fd))
            .map(drop)
    }

    /// `device_del`: unplugs device `id` and waits until the guest has given it
    /// up, which takes a driver that does.
    ///
    /// # Errors
    ///
    /// [`QmpError::NotReleased`], and those of [`Qmp::execute`].
    pub fn remove_device(&mut self, id: &str, limit: Duration) -> Result<(), QmpError> {
        let until = Instant::now() + limit;
        self.execute("device_del", json!({ "id": id }))?;
        let deleted =
            |event: &Value| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == id;
        if self.events.drain(..).any(|event| deleted(&event)) {
            return Ok(());
        }
        while let Some(message) = self.message(until)? {
            if deleted(&message) {
                return Ok(());
            }
        }
        Err(QmpError::NotReleased {
            id: id.into(),
            limit,
        })
    }

    /// The next event, or `None` if none comes within `limit`.
    ///
    /// # Errors
    ///
    /// That the connection broke.
    pub fn next_event(&mut self, limit: Duration) -> Result<Option<Value>, QmpError> {
        let until = Instant::now() + limit;
        if !self.events.is_empty() {
            return Ok(Some(self.events.remove(0)));
        }
        while let Some(message) = self.message(until)? {
            if message.get("event").is_some() {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn send(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        let until = Instant::now() + self.patience;
        let line = format!(
            "{}\n",
            json!({ "execute": command, "arguments": arguments })
        );
        let fds = fd.as_slice();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let mut left = line.as_bytes();
        while !left.is_empty() {
            let part = [IoSlice::new(left)];
            let sent = sendmsg(
                self.stream.get_ref(),
                &part,
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )
            .map_err(io::Error::from)?;
            left = &left[sent..];
            // The descriptor has gone with the first part.
            ancillary.clear();
        }

        while let Some(mut message) = self.message(until)? {
            if let Some(error) = message.get("error") {
                return Err(QmpError::Refused {
                    command: command.into(),
                    description: error["desc"].as_str().unwrap_or("no reason given").into(),
                });
            }
            match message.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => self.events.push(message),
            }
        }
        Err(QmpError::Silence(command.into()))
    }

    /// The next message; `None` if none comes until then.
    fn message(&mut self, until: Instant) -> Result<Option<Value>, QmpError> {
        let mut line = std::mem::take(&mut self.begun);
        while line.last() != Some(&b'\n') {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.begun = line;
                return Ok(None);
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            let room = MAX_MESSAGE.saturating_sub(line.len() as u64);
            match (&mut self.stream).take(room).read_until(b'\n', &mut line) {
                Ok(0) if room == 0 => {
                    return Err(QmpError::Strange("a message without end".into()))
                }
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|_| QmpError::Strange(String::from_utf8_lossy(&line).trim().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::event_fd;
    use rustix::net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    use std::io::{IoSliceMut, Write};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread::{self, JoinHandle};

    /// What a QEMU was told, and given.
    type Heard = (Vec<Value>, Vec<OwnedFd>);

    /// A QEMU that says `script` line by line: the greeting, then for each
    /// command what belongs to it. Returns the commands, and the descriptors.
    fn qemu(script: &'static [&'static str]) -> (PathBuf, JoinHandle<Heard>) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let socket = std::env::temp_dir().join(format!(
            "stopwatch-qmp-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        let listener = UnixListener::bind(&socket).unwrap();
        let path = socket.clone();
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            std::fs::remove_file(socket).unwrap();
            let mut commands = Vec::new();
            let mut fds = Vec::new();
            (&stream).write_all(script[0].as_bytes()).unwrap();
            for answer in &script[1..] {
                let mut line = vec![0; 4096];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let got = recvmsg(
                    &stream,
                    &mut [IoSliceMut::new(&mut line)],
                    &mut ancillary,
                    RecvFlags::empty(),
                )
                .unwrap();
                if got.bytes == 0 {
                    break;
                }
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        fds.extend(rights);
                    }
                }
                commands.push(serde_json::from_slice(&line[..got.bytes]).unwrap());
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
            (commands, fds)
        });
        (path, thread)
    }

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";
    const DONE: &str = "{\"return\": {}}\r\n";

    #[test]
    fn a_descriptor_goes_with_its_command() {
        let (socket, thread) = qemu(&[
            GREETING,
            DONE,
            "{\"event\": \"RESUME\"}\r\n{\"return\": {}}\r\n",
        ]);
        let fd = event_fd().unwrap();
        let mut qmp = Qmp::connect(socket).unwrap();
        qmp.get_fd("it", fd.as_fd()).unwrap();
        let (commands, fds) = thread.join().unwrap();
        assert_eq!(
            commands,
            [
                json!({"execute": "qmp_capabilities", "arguments": {}}),
                json!({"execute": "getfd", "arguments": {"fdname": "it"}}),
            ]
        );
        rustix::io::write(&fds[0], &5u64.to_ne_bytes()).unwrap();
        let mut count = [0; 8];
        rustix::io::read(&fd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 5, "it is the same eventfd");
    }

    #[test]
    fn a_refusal_is_in_qemu_s_words() {
        let (socket, _thread) = qemu(&[
            GREETING,
            DONE,
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such bus\"}}\r\n",
        ]);
        let mut qmp = Qmp::connect(socket).unwrap();
        let error = qmp.execute("device_add", json!({})).unwrap_err();
        assert_eq!(error.to_string(), "QEMU refuses device_add: no such bus");
    }

    #[test]
    fn a_device_is_gone_when_qemu_says_so() {
        let (socket, _thread) = qemu(&[
            GREETING,
            DONE,
            "{\"return\": {}}\r\n{\"event\": \"DEVICE_DELETED\", \"data\": {\"path\": \"/x\"}}\r\n\
             {\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"sw\"}}\r\n",
        ]);
        let mut qmp = Qmp::connect(socket).unwrap();
        qmp.remove_device("sw", Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn events_come_whole_and_in_order() {
        let (socket, _thread) = qemu(&[
            GREETING,
            DONE,
            "{\"event\": \"STOP\"}\r\n{\"return\": {}}\r\n{\"event\": \"RES",
            "UME\"}\r\n",
        ]);
        let mut qmp = Qmp::connect(socket).unwrap();
        qmp.execute("stop", json!({})).unwrap();
        let soon = Duration::from_millis(50);
        assert_eq!(qmp.next_event(soon).unwrap().unwrap()["event"], "STOP");
        assert_eq!(qmp.next_event(soon).unwrap(), None, "its end has not come");
        qmp.stream.get_ref().write_all(b"{}\n").unwrap();
        let event = qmp.next_event(Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(event["event"], "RESUME");
    }

    #[test]
    fn a_guest_that_keeps_its_device_is_reported() {
        let (socket, _thread) = qemu(&[GREETING, DONE, DONE, DONE]);
        let mut qmp = Qmp::connect(socket).unwrap();
        let error = qmp
            .remove_device("sw", Duration::from_millis(50))
            .unwrap_err();
        assert!(matches!(error, QmpError::NotReleased { .. }), "{error}");
    }

    #[test]
    fn something_else_is_told_apart() {
        for greeting in ["{\"hello\": 1}\n", "SSH-2.0\n"] {
            let greeting: &'static [&'static str] = Box::leak(Box::new([greeting]));
            let (socket, _thread) = qemu(greeting);
            let error = Qmp::connect(socket).unwrap_err();
            assert!(
                error.to_string().starts_with("what answers is no QEMU"),
                "{error}"
            );
        }
        let (socket, _thread) = qemu(&["{\"QMP\""]);
        let error = Qmp::connect(socket).unwrap_err();
        assert!(matches!(error, QmpError::Connection(_)), "{error}");
        let error = Qmp::connect("/no/such/socket").unwrap_err().to_string();
        assert!(
            error.contains("-qmp unix:/no/such/socket,server=on"),
            "{error}"
        );
    }
}
