// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest: boots level 2 under QEMU and talks to the command loop in it.
//! Everything that waits has a limit, and dropping a guest kills its QEMU.

use std::env;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, kill_process_group, Pid, Signal};
use serde_json::Value;
use stopwatch::host::{Control, VmInfo, DEVICE};

use crate::kmsg;
use crate::kvm::keep_code;
use crate::program::stopwatch_program;
use crate::suite::{environment, eventually, patience};

/// How long a boot may take: an emulated machine on a busy one is slow.
const BOOT: Duration = Duration::from_secs(240);
/// How long a command may take that says nothing else.
const COMMAND: Duration = Duration::from_secs(90);

/// What a command in the guest said, and its exit status.
#[derive(Clone, Debug)]
pub struct Said {
    /// Zero is success.
    pub status: i32,
    /// Output and errors.
    pub text: String,
}

/// A guest and the QEMU around it.
pub struct Guest {
    name: String,
    process: Child,
    socket: PathBuf,
    console: PathBuf,
    stream: Option<UnixStream>,
    unread: Vec<u8>,
    /// Why it is no use to ask any more.
    broken: Option<String>,
}

/// Where logs of tests go.
pub fn log_directory() -> PathBuf {
    let logs = env::current_dir().expect("there is one").join("build/logs");
    fs::create_dir_all(&logs).expect("build/logs can be made");
    logs
}

/// The arguments of `$STOPWATCH_GUEST`: the socket of the guest's command loop
/// and the file of its console.
fn places(name: &str) -> (PathBuf, PathBuf) {
    let socket = env::temp_dir().join(format!("{name}.socket"));
    let console = log_directory().join(format!("guest-{name}.console"));
    for stale in [&socket, &console] {
        let _ = fs::remove_file(stale);
    }
    (socket, console)
}

impl Guest {
    /// Boots a guest under `stopwatch host run`, with two rings and `options`.
    /// `before` goes before that command, `after` to the end of QEMU's arguments.
    ///
    /// Exits to the VMM can only be told from others with doorbells in memory:
    /// KVM's io_exits counts the writes to ports that it serves by itself, too.
    pub fn boot(name: &str, options: &[&str], before: &[&str], after: &[&str]) -> Self {
        let (socket, console) = places(name);
        let program = stopwatch_program();
        let mut words: Vec<&std::ffi::OsStr> = before.iter().map(AsRef::as_ref).collect();
        words.push(program.as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.args(["host", "run", "--name", name, "--rings", "2"]);
        command.args(options).arg("--");
        command.arg(environment("STOPWATCH_GUEST"));
        command.args([&socket, &console]).args(after);
        Self::start(name, command, socket, console)
    }

    /// Boots a guest with a command that becomes QEMU by itself. It finds what
    /// `$STOPWATCH_GUEST` takes at the end of its arguments, `after` included.
    pub fn boot_with(name: &str, mut command: Command, after: &[&str]) -> Self {
        let (socket, console) = places(name);
        command.args([&socket, &console]).args(after);
        Self::start(name, command, socket, console)
    }

    fn start(name: &str, mut command: Command, socket: PathBuf, console: PathBuf) -> Self {
        keep_code();
        let errors = fs::File::create(console.with_extension("qemu")).expect("a log can be made");
        let process = command
            .stdin(Stdio::null())
            .stdout(errors.try_clone().expect("a file can be duplicated"))
            .stderr(errors)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        Self {
            name: name.to_owned(),
            process,
            socket,
            console,
            stream: None,
            unread: Vec::new(),
            broken: None,
        }
    }

    /// The process id of its QEMU.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the guest is up.
    pub fn ready(&mut self) {
        if self.stream.is_some() {
            return;
        }
        self.check();
        let begin = Instant::now();
        let stream = loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => break stream,
                Err(_) if begin.elapsed() < BOOT * patience() => {
                    if let Ok(Some(status)) = self.process.try_wait() {
                        self.fail(&format!("QEMU ended, {status}"));
                    }
                    sleep(Duration::from_millis(20));
                }
                Err(error) => self.fail(&format!("its command loop cannot be reached: {error}")),
            }
        };
        self.stream = Some(stream);
        self.next_ready();
    }

    /// Waits for the guest to say that it is up, after a boot.
    fn next_ready(&mut self) {
        while self.answer(BOOT, "boot").1 != "ready" {}
    }

    /// Runs a command in the guest's shell.
    pub fn run(&mut self, command: &str) -> Said {
        self.send(command);
        self.said(command)
    }

    /// The answer to a command that was sent.
    fn said(&mut self, command: &str) -> Said {
        let (text, marker) = self.answer(COMMAND, command);
        match marker.parse() {
            Ok(status) => Said { status, text },
            Err(_) => self.fail(&format!("it rebooted at `{command}`")),
        }
    }

    /// Waits until the guest is awake after it was suspended by a command, whose
    /// answer may get lost.
    ///
    /// As it wakes up, its virtio-console takes the other end of the port to be
    /// closed, until somebody connects there.
    ///
    /// `wake` is called each second until the guest answers: a slow guest can still be
    /// on its way to sleep, and what would wake it up is lost on it then.
    pub fn awake(&mut self, mut wake: impl FnMut()) {
        let end = Instant::now() + COMMAND * patience();
        loop {
            wake();
            let stream = UnixStream::connect(&self.socket).expect("QEMU listens");
            stream
                .set_read_timeout(Some(Duration::from_secs(1)))
                .expect("not zero");
            let stream = self.stream.insert(stream);
            let mut byte = [0];
            let heard = stream.read(&mut byte).unwrap_or(0);
            self.unread.extend_from_slice(&byte[..heard]);
            if heard != 0 || Instant::now() > end {
                break;
            }
        }
        // What came before is of that command, or of a shell that begins anew.
        self.send("echo awake");
        while !self.answer(COMMAND, "echo awake").0.contains("awake") {}
    }

    /// Runs a command that has to succeed.
    pub fn shell(&mut self, command: &str) -> String {
        let Said { status, text } = self.run(command);
        assert!(
            status == 0,
            "guest {}: `{command}` ended with status {status}:\n{text}",
            self.name
        );
        text
    }

    /// Runs a command that has to succeed and to print JSON.
    pub fn json(&mut self, command: &str) -> Value {
        let text = self.shell(command);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("`{command}` printed no JSON, {error}: {text}"))
    }

    /// Sends a command and does not wait for what comes of it.
    pub fn send(&mut self, command: &str) {
        self.ready();
        self.check();
        let line = format!("{command}\n");
        let stream = self.stream.as_mut().expect("it is ready");
        if let Err(error) = stream.write_all(line.as_bytes()) {
            self.fail(&format!("cannot send `{command}`: {error}"));
        }
    }

    /// Reboots the guest, the hard way, and waits until it is up again.
    pub fn reboot(&mut self) {
        self.send("reboot -f");
        self.next_ready();
    }

    /// Has the guest's kernel panic, at which it reboots, and waits until it is up again.
    pub fn panic(&mut self) {
        self.send("echo c >/proc/sysrq-trigger");
        self.next_ready();
    }

    /// Boots the kernel that `guest-kexec` has loaded, and waits until the guest is up
    /// again.
    pub fn kexec(&mut self) {
        self.send("guest-kexec");
        self.next_ready();
    }

    /// Reads up to the next marker: what came before it, and the marker.
    fn answer(&mut self, limit: Duration, what: &str) -> (String, String) {
        const MARK: u8 = 0x1e;
        let limit = limit * patience();
        let end = Instant::now() + limit;
        loop {
            if let Some(mark) = self.unread.iter().position(|&byte| byte == MARK) {
                if let Some(length) = self.unread[mark..].iter().position(|&byte| byte == b'\n') {
                    let text = String::from_utf8_lossy(&self.unread[..mark]).into_owned();
                    let marker = &self.unread[mark + 1..mark + length];
                    let marker = String::from_utf8_lossy(marker).trim().to_owned();
                    self.unread.drain(..=mark + length);
                    return (text, marker);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.fail(&format!(
                    "`{what}` did not end within {} s",
                    limit.as_secs()
                ));
            }
            let stream = self.stream.as_mut().expect("it is connected");
            stream.set_read_timeout(Some(left)).expect("not zero");
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes) {
                Ok(0) => self.fail(&format!("QEMU went away during `{what}`")),
                Ok(length) => self.unread.extend_from_slice(&bytes[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => self.fail(&format!("`{what}`: {error}")),
            }
        }
    }

    fn check(&self) {
        if let Some(broken) = &self.broken {
            panic!("guest {} is out of order since before: {broken}", self.name);
        }
    }

    fn fail(&mut self, why: &str) -> ! {
        self.broken = Some(why.to_owned());
        let tail = |path: &Path| {
            let text = fs::read(path).unwrap_or_default();
            let text =
                String::from_utf8_lossy(&text[text.len().saturating_sub(3000)..]).into_owned();
            format!("{}:\n{text}", path.display())
        };
        panic!(
            "guest {}: {why}\n{}\n{}",
            self.name,
            tail(&self.console),
            tail(&self.console.with_extension("qemu"))
        );
    }

    /// The VM, as the host module sees it.
    pub fn vm(&self) -> VmInfo {
        let control = Control::open(DEVICE).expect("the host module is loaded");
        control
            .find(&self.name)
            .unwrap_or_else(|error| panic!("guest {}: {error}", self.name))
    }

    /// Loads the driver.
    pub fn load_driver(&mut self) {
        self.shell("insmod /modules/stopwatch.ko");
    }

    /// Fails if the guest's kernel log, since its boot, has trouble in it.
    pub fn check_log(&mut self) {
        let log = self.shell("dmesg");
        let trouble = kmsg::trouble(&log);
        assert!(
            trouble.is_empty(),
            "guest {}: the kernel log has trouble:\n  {}\nall of it:\n{log}",
            self.name,
            trouble.join("\n  ")
        );
    }

    /// Fails if the guest's kernel looks for leaks and finds one.
    pub fn check_leaks(&mut self) {
        let found = self.shell(
            "f=/sys/kernel/debug/kmemleak; [ ! -e $f ] || \
             { sleep 6; echo scan >$f; sleep 6; echo scan >$f; cat $f; }",
        );
        assert_eq!(
            found, "",
            "guest {}: kmemleak has found something",
            self.name
        );
    }

    /// Kills QEMU at once, as nothing that it could prepare for.
    pub fn kill(&mut self) {
        let qemu = self.vm().pid;
        let pid = i32::try_from(qemu)
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process");
        kill_process(pid, Signal::KILL).expect("QEMU runs");
        self.process.wait().expect("it is our child");
        self.broken = Some("its QEMU was killed".into());
    }
}

impl Guest {
    /// Has the guest power off and QEMU end by that.
    pub fn power_off(&mut self) {
        self.send("poweroff -f");
        let ended = eventually(COMMAND, || matches!(self.process.try_wait(), Ok(Some(_))));
        if !ended {
            self.fail("QEMU runs on after the guest powered off");
        }
        self.end();
    }

    /// Ends QEMU, if it still runs.
    pub fn end(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.process), Signal::KILL);
            let _ = self.process.wait();
        }
        let _ = fs::remove_file(&self.socket);
        self.broken.get_or_insert_with(|| "it was ended".into());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}
