// SPDX-License-Identifier: MIT OR Apache-2.0

//! The program `stopwatch host serve`, as a child of the test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::thread;

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

use crate::qemu::PATIENCE;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_stopwatch");

/// A directory of a test's own, which goes with it.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!(
            "stopwatch-serve-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that serves.
pub(crate) struct Server {
    child: Child,
    events: Receiver<Value>,
    /// What it said first.
    pub(crate) serving: Value,
}

/// `stopwatch host serve` at `socket`, with these options, without a host module.
pub(crate) fn command(socket: &Path, options: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--json", "host", "serve", "--socket"])
        .arg(socket)
        .args(options.split_whitespace());
    command
}

/// The usual one.
pub(crate) const OPTIONS: &str = "--backend program --stopwatches 128 --rings 2 --ring-slots 8 \
                           --event-slots 8";

impl Server {
    pub(crate) fn start(socket: &Path, options: &str) -> Self {
        Self::spawn(command(socket, options))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (send, events) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(serde_json::from_str(&line).expect(&line));
            }
        });
        let serving: Value = events
            .recv_timeout(PATIENCE)
            .expect("the server says that it serves");
        assert_eq!(serving["event"], "serving");
        Self {
            child,
            events,
            serving,
        }
    }

    /// The next event, which is of that kind.
    pub(crate) fn expect(&self, event: &str) -> Value {
        let got = self.events.recv_timeout(PATIENCE);
        let got = got.unwrap_or_else(|_| panic!("no event {event}"));
        assert_eq!(got["event"], event, "{got}");
        got
    }

    /// That nothing is told for a moment.
    pub(crate) fn is_silent(&self) -> bool {
        let moment = std::time::Duration::from_millis(100);
        self.events.recv_timeout(moment).is_err()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// A line of `/proc/PID/status`, without its unit.
    pub(crate) fn status(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let value = line.unwrap().trim_start_matches(':').split_whitespace();
        value.clone().next().unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Ends it by a signal.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server that does not come up says, and how it ends.
pub(crate) fn refusal(mut command: Command) -> (String, Option<i32>) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    (said, child.wait().unwrap().code())
}
