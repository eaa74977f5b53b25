// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guest: QEMU with every device that has a row, and the shell in it.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde::de::DeserializeOwned;

use crate::results::GuestPart;

/// The stock kernel's modules that rows need, in the order of loading, and ours.
const MODULES: [&str; 7] = [
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "virtio-rng",
    "ptp_kvm",
    "ptp_vmclock",
    "stopwatch",
];

/// The devices beside ours. Each test of pci-testdev has one of its own.
const DEVICES: [&str; 8] = [
    "edu",
    "pci-testdev",
    "pci-testdev",
    "pci-testdev",
    "pci-testdev",
    "virtio-rng-pci,rng=rng",
    "vhost-vsock-pci,guest-cid=3",
    "vmclock",
];

/// Ends what the guest's shell sends.
const MARK: u8 = 0x1e;

/// A running guest.
pub(super) struct Vm {
    qemu: Child,
    shell: BufReader<UnixStream>,
    console: PathBuf,
    patience: Duration,
}

impl Vm {
    /// Boots it with that many vCPUs, each with a ring, and loads the modules.
    /// `device` are further arguments of `stopwatch host run`. Nothing in the guest
    /// may take longer than `patience`.
    pub(super) fn boot(
        vcpus: u32,
        device: &[&str],
        patience: Duration,
        console: &Path,
    ) -> Result<Self> {
        let launcher = env::var_os("STOPWATCH_GUEST")
            .context("STOPWATCH_GUEST is not set: run this in level 1 of the lab")?;
        let socket = Path::new("/run/stopwatch-bench-shell");
        let _ = fs::remove_file(console);
        let vcpus = vcpus.to_string();

        let mut command = Command::new("stopwatch");
        command.args(["host", "run", "--name", "bench", "--rings", &vcpus]);
        command
            .args(device)
            .arg("--")
            .arg(launcher)
            .args([socket, console]);
        command.args([
            "-machine",
            "hpet=on",
            "-smp",
            &vcpus,
            "-object",
            "rng-builtin,id=rng",
        ]);
        for device in DEVICES {
            command.args(["-device", device]);
        }
        let mut qemu = command
            .stdin(Stdio::null())
            .spawn()
            .context("run `stopwatch host run`")?;
        let begin = Instant::now();
        let shell = loop {
            if let Ok(shell) = UnixStream::connect(socket) {
                break shell;
            }
            if let Some(status) = qemu.try_wait().context("wait for QEMU")? {
                bail!("QEMU ended before it listened: {status}");
            }
            if begin.elapsed() > patience {
                let _ = qemu.kill();
                bail!("QEMU does not listen at {}", socket.display());
            }
            thread::sleep(Duration::from_millis(50));
        };
        shell
            .set_read_timeout(Some(patience))
            .context("set a time limit")?;
        let mut vm = Self {
            qemu,
            shell: BufReader::new(shell),
            console: console.to_owned(),
            patience,
        };
        vm.answer().context("the guest does not boot")?;
        for module in MODULES {
            // One that is missing is the reason of a row, later.
            if let Err(error) = vm.run(&format!("insmod /modules/{module}.ko")) {
                eprintln!("bench: {error:#}");
            }
        }
        Ok(vm)
    }

    /// Runs a shell command in the guest, which has to succeed; gives its output.
    pub(super) fn run(&mut self, command: &str) -> Result<String> {
        writeln!(self.shell.get_mut(), "{command}").context("the guest's shell")?;
        let (output, status) = self.answer().with_context(|| format!("guest: {command}"))?;
        ensure!(
            status == "0",
            "guest: {command}: status {status}: {}",
            output.trim_end()
        );
        Ok(output)
    }

    /// Measures rows in the guest, those named or all, by such arguments.
    pub(super) fn rows(&mut self, arguments: &str, names: &[&str]) -> Result<GuestPart> {
        let names: Vec<_> = names.iter().map(|name| format!("--row '{name}'")).collect();
        self.bench(&format!("rows {arguments} {}", names.join(" ")))
    }

    /// Runs this program in the guest, which answers in JSON.
    pub(super) fn bench<T: DeserializeOwned>(&mut self, arguments: &str) -> Result<T> {
        let output = self.run(&format!("stopwatch-bench guest {arguments}"))?;
        serde_json::from_str(&output).with_context(|| format!("guest, {arguments}: {output}"))
    }

    /// What comes until the mark, and what it says.
    fn answer(&mut self) -> Result<(String, String)> {
        let mut output = Vec::new();
        let mut status = String::new();
        let received = self
            .shell
            .read_until(MARK, &mut output)
            .and_then(|_| self.shell.read_line(&mut status));
        if received.is_err() || output.pop() != Some(MARK) {
            let console = fs::read_to_string(&self.console).unwrap_or_default();
            let end: Vec<_> = console.lines().rev().take(15).collect();
            let end: Vec<_> = end.into_iter().rev().collect();
            bail!(
                "no answer within {} s; the guest's console ends with\n{}",
                self.patience.as_secs(),
                end.join("\n")
            );
        }
        Ok((
            String::from_utf8_lossy(&output).into_owned(),
            status.trim_end().to_owned(),
        ))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
