// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `make demo` runs on level 1, the host: a guest uses a stopwatch that
//! the host's kernel keeps. Tells what happens where, and writes
//! `build/demo.json`, and the timeline of the guest's boot to `build/demo/`. Fails
//! unless all of it holds.

use std::fmt::Display;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use serde::Serialize;
use stopwatch::Nanoseconds;
use stopwatch_tests::guest::{log_directory, Guest};
use stopwatch_tests::kmsg;
use stopwatch_tests::program::stopwatch_program;
use stopwatch_tests::scenario::{self, Burst, Results};
use stopwatch_tests::suite::{environment, host_module};

const RESULT: &str = "build/demo.json";

/// Where the timeline of the guest's boot goes.
const DIRECTORY: &str = "build/demo";

/// What lab/guest/init writes to the console when the guest is up.
const READY_LINE: &str = "guest: up";

/// `build/demo.json`.
#[derive(Serialize)]
struct Summary {
    accel: String,
    host_kernel: String,
    guest_kernel: String,
    qemu: String,
    after_1s_ns: u64,
    after_5s_ns: u64,
    timeouts: u64,
    after_reset_ns: u64,
    commands: u64,
    qemu_exits: u64,
    kvm_exits: u64,
}

fn main() -> ExitCode {
    let mut log = kmsg::Cursor::now();
    let faults = run(&mut log);
    for fault in &faults {
        println!("\nFAILED: {fault}");
    }
    ExitCode::from(u8::from(!faults.is_empty()))
}

/// A line of the transcript for each line of `text`.
fn say(who: &str, text: impl Display) {
    for line in text.to_string().lines() {
        println!("{who:<6} {line}");
    }
}

fn host(text: impl Display) {
    say("host:", text);
}

fn qemu(text: impl Display) {
    say("qemu:", text);
}

fn guest(text: impl Display) {
    say("guest:", text);
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `QEMU emulator version 10.0.13 (...)`
fn qemu_version() -> String {
    let text = output(&environment("STOPWATCH_QEMU"), &["--version"]);
    let words = text.lines().next().unwrap_or_default().split_whitespace();
    words
        .skip_while(|word| *word != "version")
        .nth(1)
        .unwrap_or("unknown")
        .to_owned()
}

/// The demo; what did not hold.
fn run(log: &mut kmsg::Cursor) -> Vec<String> {
    let accel = format!("{}+kvm", environment("STOPWATCH_ACCEL"));
    let host_kernel = output("uname", &["-r"]);
    let qemu_version = qemu_version();

    println!(
        "Three take part, each in its own kernel or process:\n\
         \x20 host:   Linux {host_kernel}, which keeps the time (vhost_stopwatch.ko)\n\
         \x20 qemu:   QEMU {qemu_version}, a process on the host, which only connects the two\n\
         \x20 guest:  a virtual machine in it, whose programs use the time (stopwatch.ko)\n"
    );

    host("$ insmod vhost_stopwatch.ko");
    let module = host_module();
    module.load().unwrap_or_else(|error| panic!("{error}"));
    host(
        "$ stopwatch host run --name demo --rings 2 --doorbells memory \
         --timeline host.json ... -- qemu-system-x86_64 ...",
    );
    fs::create_dir_all(DIRECTORY).unwrap_or_else(|error| panic!("{DIRECTORY}: {error}"));
    let console = log_directory().join("guest-demo.console");
    let (host_file, console) = (file("host.json"), console.to_string_lossy());
    let begin = Instant::now();
    let options = [
        ["--doorbells", "memory"],
        ["--timeline", &host_file],
        ["--console", &console],
        ["--ready-line", READY_LINE],
    ];
    let mut options = options.concat();
    options.push("--firmware-log");
    let mut vm = Guest::boot("demo", &options, &[], &[]);
    vm.ready();
    qemu(format_args!(
        "inherited the VM's region, doorbells and call; booted the guest in {} s",
        begin.elapsed().as_secs()
    ));
    let guest_kernel = vm.shell("uname -r").trim().to_owned();
    guest(format_args!("Linux {guest_kernel} is up"));
    guest("$ insmod stopwatch.ko");
    vm.load_driver();
    guest(vm.shell("stopwatch info"));

    println!("\nThe guest uses stopwatch 0:\n");
    let results = scenario::run(&mut vm, |command, text| {
        guest(format_args!("$ {command}"));
        guest(text);
    });

    println!("\nThe guest starts and pauses it 10,000 times, the host's KVM counts:\n");
    guest("$ stopwatch bench call --count 10000");
    let before = vm.vm();
    let burst = scenario::burst(&mut vm);
    let info = vm.vm();
    guest(format_args!(
        "{} commands, each answered when its doorbell's write retired",
        burst.commands
    ));
    host(format_args!(
        "{} exits of the guest, of which {} were the doorbell",
        burst.exits.all,
        info.kicks - before.kicks
    ));
    qemu(format_args!(
        "{} of those exits came to me, none of them a command",
        burst.exits.to_vmm
    ));
    host("$ stopwatch host list");
    let program = stopwatch_program();
    host(output(&program.to_string_lossy(), &["host", "list"]));

    let guest_log = vm.shell("dmesg");
    guest("$ stopwatch boot --output guest.json");
    let guest_boot = vm.shell("stopwatch boot --json");
    guest("$ poweroff -f");
    vm.power_off();
    host("$ rmmod vhost_stopwatch");
    let unloaded = module.unload();

    show(&results);
    let timeline = timeline(&guest_boot);
    let result = Summary {
        accel,
        host_kernel,
        guest_kernel,
        qemu: qemu_version,
        after_1s_ns: results.after_1s_ns,
        after_5s_ns: results.after_5s_ns,
        timeouts: results.timeouts,
        after_reset_ns: results.after_reset_ns,
        commands: burst.commands,
        qemu_exits: burst.exits.to_vmm,
        kvm_exits: burst.exits.all,
    };
    let text = serde_json::to_string(&result).expect("it is plain");
    let mut faults = faults(&results, &burst);
    match fs::write(RESULT, text + "\n") {
        Ok(()) => println!("\nAll of it for programs: {RESULT}"),
        Err(error) => faults.push(format!("cannot write {RESULT}: {error}")),
    }
    faults.extend(timeline.err());
    if let Err(errno) = unloaded {
        faults.push(format!("the host module does not unload: {errno}"));
    }
    faults.extend(log.check().err());
    for line in kmsg::trouble(&guest_log) {
        faults.push(format!("the guest's kernel log has: {line}"));
    }
    faults
}

/// A file of the timeline.
fn file(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}

/// Shows where the guest's boot went, and draws it: what its host saw, and what it
/// gathered itself.
fn timeline(guest_boot: &str) -> Result<(), String> {
    let [host, guest, whole, page] =
        ["host.json", "guest.json", "timeline.json", "timeline.html"].map(file);
    fs::write(&guest, guest_boot).map_err(|error| format!("cannot write {guest}: {error}"))?;
    println!("\nWhere the time of the guest's boot went:\n");
    for arguments in [
        &["timeline", "merge", &host, &guest, "--output", &whole][..],
        &["timeline", "show", &whole],
        &["timeline", "html", &whole, "--output", &page],
    ] {
        let program = stopwatch_program();
        let output = Command::new(&program)
            .args(arguments)
            .output()
            .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            return Err(format!(
                "stopwatch {} ended with {}: {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    println!("\nThe same as a picture, for a browser: {page}");
    Ok(())
}

fn show(results: &Results) {
    println!("\nThe four results:\n");
    println!(
        "  1. after running for 1 s, paused:    {}",
        Nanoseconds(results.after_1s_ns)
    );
    println!(
        "  2. after 4 s more, running:          {}",
        Nanoseconds(results.after_5s_ns)
    );
    println!(
        "  3. timeouts, each an interrupt:      {}",
        results.timeouts
    );
    println!(
        "  4. after a reset:                    {}",
        Nanoseconds(results.after_reset_ns)
    );
}

fn faults(results: &Results, burst: &Burst) -> Vec<String> {
    let mut faults = results.faults();
    faults.extend(burst.faults());
    faults
}
