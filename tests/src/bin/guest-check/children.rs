// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is no check by itself: processes that a check or a test of level 2
//! starts, and ends or disturbs.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::pty::{grantpt, openpt, ptsname, unlockpt, OpenptFlags};
use rustix::termios::{tcsetwinsize, Winsize};
use rustix::thread::{sched_setaffinity, CpuSet};
use stopwatch::guest::Device;
use stopwatch::{Act, Creation};
use stopwatch_tests::suite::{eventually, figure, print_figures};
use stopwatch_uapi::*;

use crate::mapping::{map, map_as};
use crate::*;

/// Runs the child of that name, if there is one.
pub(crate) fn run(arguments: &[String]) -> Option<ExitCode> {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["hold"] => hold(),
        ["touch", what] => touch(what),
        ["call"] => call_until_it_is_gone(),
        ["write-registers", address] => write_registers(address),
        ["map-node", path] => map_node(path),
        ["bind", watch] => bind_and_lap(number(watch), None),
        ["bind", watch, other] => bind_and_lap(number(watch), Some(number(other))),
        ["deleted"] => deleted(),
        ["replaced", enough] => replaced(enough),
        ["mapped", name] => mapped(name),
        ["driverless", tier, count] => driverless(tier, number(count)),
        ["create", name] => create_and_start(name),
        ["passed", private, readable] => passed(number(private), number(readable)),
        ["fill", count] => fill(number(count)),
        ["empty"] => empty(),
        ["unnamed", count, enough] => unnamed(number(count), enough),
        ["flood", what, first] => floods::flood(what, number(first)),
        ["given-up", enough] => abuse::given_up(enough),
        ["storm", count] => storm(number(count)),
        ["terminal", ms, ref command @ ..] => {
            return Some(terminal(Duration::from_millis(number(ms).into()), command))
        }
        _ => return None,
    }
    print_figures();
    Some(ExitCode::SUCCESS)
}

/// Runs a child to its end, and returns what it printed.
pub(crate) fn spawn(arguments: &[&str]) -> String {
    let output = Command::new("/proc/self/exe")
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("this program can be run again");
    assert!(output.status.success(), "{arguments:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn number(text: &str) -> u32 {
    text.parse().expect("a number")
}

fn in_words(result: Result<(), Errno>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(Errno::NODEV) => "ENODEV".into(),
        Err(Errno::NOENT) => "ENOENT".into(),
        Err(Errno::ACCESS) => "EACCES".into(),
        Err(Errno::TIMEDOUT) => "ETIMEDOUT".into(),
        Err(errno) => format!("{errno:?}"),
    }
}

/// Holds the device open, in a blocked read and in a poll, while its driver is
/// unbound; then says what each call gave.
fn hold() {
    let file = open();
    // A timeout that expires after the driver is gone.
    ok(&file, TIMEOUT, 61, 60_000 * MS);
    let read = |mut file: &File| {
        file.read(&mut [0; RECORD])
            .map(drop)
            .map_err(|error| Errno::from_io_error(&error).unwrap())
    };
    let (reader, poller) = (file.try_clone().unwrap(), file.try_clone().unwrap());
    let reader = thread::spawn(move || read(&reader));
    let poller = thread::spawn(move || polled(&poller, Duration::from_secs(60)));
    println!("holding");
    println!("read: {}", in_words(reader.join().unwrap()));
    println!("poll: {:?}", poller.join().unwrap());
    println!("command: {}", in_words(give(&file, READ, 61, 0).0));
    let info = call(&file, STOPWATCH_IOC_INFO, stopwatch_device_info::default());
    println!("info: {}", in_words(info.0));
    println!("map: {}", in_words(map(&file, 1).map(drop)));
    println!("read again: {}", in_words(read(&file)));
}

/// Binds a post ring and takes laps by it, and says how many its stopwatch has, and
/// another one. A ring that it does not get is said, too.
fn bind_and_lap(watch: u32, other: Option<u32>) {
    println!("binding");
    let file = open();
    let binding = stopwatch_binding {
        watch,
        ..Default::default()
    };
    let (result, _) = call(&file, STOPWATCH_IOC_BIND, binding);
    if let Err(errno) = result {
        println!("bind: {}", in_words(Err(errno)));
        return;
    }
    let ring = map_as(
        &file,
        1,
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::SHARED,
        STOPWATCH_POST_RING_OFFSET.into(),
    )
    .unwrap();
    for lap in 0..3 {
        // A stamp of long ago counts as the last time at which the host took one.
        let post = STOPWATCH_POST_WRAP | (LAP << STOPWATCH_POST_OP_SHIFT);
        ring.set_word(offset_of!(stopwatch_post_ring, posts) + 8 * lap, post);
    }
    let laps = |watch| ok(&file, READ, watch, 0).laps;
    let (own, others) = (laps(watch), other.map(laps));
    println!("bind: ok, {own} laps, {others:?} of the other");
}

/// Makes a stopwatch that would go with its file, and deletes it before.
fn deleted() {
    let file = open();
    let watch = anonymous(&file);
    ok(&file, DELETE, watch, 0);
}

/// Makes a stopwatch, and when there is a file `enough` asks for three things at once,
/// each by a thread, while the host does not serve: to start it, by the second
/// processor; to delete it, and then to make another one, by the first. Says what came
/// of them.
fn replaced(enough: &str) {
    let on = |processor, wait, ask: &dyn Fn() -> String| {
        let mut set = CpuSet::new();
        set.set(processor);
        sched_setaffinity(None, &set).expect("the guest has two processors");
        thread::sleep(Duration::from_millis(wait));
        ask()
    };
    let file = &open();
    let watch = anonymous(file);
    println!("made");
    while !Path::new(enough).exists() {
        thread::sleep(Duration::from_millis(10));
    }
    println!("asking");
    let [started, deleted, made] = thread::scope(|scope| {
        let asked = |op| move || in_words(give(file, op, watch, 0).0);
        let start = scope.spawn(move || on(1, 0, &asked(START)));
        let delete = scope.spawn(move || on(0, 0, &asked(DELETE)));
        let make = scope.spawn(move || {
            on(0, 100, &|| {
                let (result, number) = create(file, stopwatch_creation::default());
                let same = if number == watch {
                    ", the same number"
                } else {
                    ""
                };
                in_words(result) + same
            })
        });
        [start, delete, make].map(|thread| thread.join().expect("it ends"))
    });
    let runs = give(file, READ, watch, 0).1.state == STOPWATCH_RUNNING;
    println!("start: {started}\ndelete: {deleted}\ncreate: {made}\nruns: {runs}");
}

/// Maps and reads a page of the device by another node of it, and ends with the
/// mapping in place.
fn map_node(path: &str) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let pages = map(&file, 1).unwrap();
    pages.word(0);
    std::mem::forget(pages);
}

/// Reads mapped pages again and again, or writes to a mapped ring, until the driver
/// is unbound under it.
fn touch(what: &str) {
    let file = open();
    let pages = map(&file, 2).unwrap();
    let ring = posts::ring(&file, 61);
    let words: &dyn Fn() = match what {
        "pages" => &|| {
            pages.word(0);
            pages.word(4096);
        },
        _ => &|| ring.set_word(2048, 0),
    };
    println!("touching");
    // For longer than the test waits.
    eventually(Duration::from_secs(60), || {
        words();
        false
    });
    println!("still there");
}

/// Calls the host by two threads until the device is gone, and says what they got then.
fn call_until_it_is_gone() {
    println!("calling");
    let calls = || {
        let file = open();
        (0..)
            .map(|_| give(&file, READ, 61, 0).0)
            .find_map(|result| result.err())
    };
    thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(calls));
        for thread in threads {
            println!("{}", in_words(Err(thread.join().unwrap().unwrap())));
        }
    });
}

/// Writes to the registers of a PCI device that no driver has, past the kernel, by a thread for each
/// processor: until the kernel has removed the device, and for a while after that. Says how often.
fn write_registers(address: &str) {
    let device = Path::new("/sys/bus/pci/devices").join(address);
    fs::write(device.join("enable"), "1").unwrap();
    let resources = fs::read_to_string(device.join("resource")).unwrap();
    let start = resources.split_whitespace().next().unwrap();
    let start = u64::from_str_radix(start.trim_start_matches("0x"), 16).unwrap();
    let memory = File::options().read(true).write(true).open("/dev/mem");
    let registers = map_as(
        &memory.unwrap(),
        1,
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::SHARED,
        start,
    )
    .unwrap();
    assert_eq!(registers.word(0), STOPWATCH_MAGIC);
    let [reset, doorbell] =
        [STOPWATCH_REG_RESET, STOPWATCH_REG_DOORBELL].map(|offset| offset as usize);
    println!("writing");
    let writes = || {
        let (mut writes, mut left) = (0, 50u32);
        while left > 0 {
            for offset in [reset, doorbell, reset, doorbell] {
                registers.set_word(offset, 0);
                writes += 1;
            }
            left -= u32::from(!device.exists());
        }
        writes
    };
    let writes: u64 = thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(writes));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    println!("{writes}");
}

/// What the crate's reader makes of a stopwatch, as JSON.
fn mapped(name: &str) {
    let device = Device::open(DEVICE).unwrap();
    let watch = device.number(&name.parse().unwrap()).unwrap();
    // A call makes sure that the clock page holds.
    device.command(watch, Act::Read).unwrap();
    let reading = device.reader().unwrap().read_exit_free(watch).unwrap();
    let reading = serde_json::json!({
        "elapsed_ns": reading.elapsed_ns,
        "time_ns": reading.time_ns,
        "error_ns": reading.error_ns,
        "laps": reading.laps,
        "lap_ns": reading.lap_ns,
        "timeouts": reading.timeouts,
        "running": reading.running,
    });
    println!("{reading}");
}

/// Uses the device as a program does that finds no driver, in one of the tiers, and prints how
/// long one use took.
fn driverless(tier: &str, count: u32) {
    let device = Device::find().unwrap();
    let watch = device.create(None, Creation::default()).unwrap();
    device.command(watch, Act::Start).unwrap();
    let reader = device.reader().unwrap();
    let mut poster = device.poster(watch).unwrap();
    assert!(poster.has_ring());
    let begin = Instant::now();
    for _ in 0..count {
        match tier {
            "nothing" => {}
            "read" => assert!(reader.read(watch).unwrap().running),
            "post" => poster.post(Act::Lap).unwrap(),
            "call" => assert!(device.command(watch, Act::Lap).unwrap().running),
            other => panic!("there is no tier {other}"),
        }
    }
    let each = begin.elapsed() / count;
    drop(poster);
    let laps = match tier {
        "post" | "call" => count,
        _ => 0,
    };
    assert_eq!(device.command(watch, Act::Read).unwrap().laps, laps);
    println!("{each:?} each");
}

fn create_and_start(name: &str) {
    let file = open();
    let creation = stopwatch_creation {
        name: field(name),
        ..Default::default()
    };
    let (result, watch) = create(&file, creation);
    assert_eq!(result, Ok(()));
    ok(&file, START, watch, 0);
    println!("created");
}

/// Uses the device that it was given as its standard input.
fn passed(private: u32, readable: u32) {
    let file = File::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let said: Vec<_> = [private, readable]
        .into_iter()
        .map(|watch| {
            let read = in_words(give(&file, READ, watch, 0).0);
            let pause = match give(&file, PAUSE, watch, 0).0 {
                // It was done before.
                Err(Errno::ALREADY) => Ok(()),
                result => result,
            };
            format!("read {read}, pause {}", in_words(pause))
        })
        .collect();
    println!("{}", said.join("; "));
}

fn named_many(number: u32) -> String {
    format!("many-{number:04}")
}

/// Makes many stopwatches with names.
fn fill(count: u32) {
    let file = open();
    let begin = Instant::now();
    for number in 0..count {
        let creation = stopwatch_creation {
            name: field(named_many(number)),
            ..Default::default()
        };
        let (result, _) = create(&file, creation);
        assert_eq!(result, Ok(()), "stopwatch {number}");
    }
    figure(format_args!(
        "{count} named stopwatches created in {:.2?}",
        begin.elapsed()
    ));
    let begin = Instant::now();
    find(&file, named_many(count - 1)).expect("the last one is found");
    figure(format_args!(
        "the last one found in {:.0?}",
        begin.elapsed()
    ));
}

/// Deletes them.
fn empty() {
    let file = open();
    let begin = Instant::now();
    let (mut from, mut deleted) = (STOPWATCH_NUMBERED, 0);
    while let Ok(next) = describe(&file, from, STOPWATCH_DESCRIBE_NEXT) {
        from = next.watch + 1;
        if next.name.starts_with(b"many-") {
            ok(&file, DELETE, next.watch, 0);
            deleted += 1;
        }
    }
    figure(format_args!("{deleted} deleted in {:.2?}", begin.elapsed()));
}

/// Makes many stopwatches without names, says which, and ends when there is such a file.
fn unnamed(count: u32, enough: &str) {
    let file = open();
    let watches: Vec<_> = (0..count).map(|_| anonymous(&file).to_string()).collect();
    println!("made: {}", watches.join(" "));
    while !Path::new(enough).exists() {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Arms more timeouts than the event ring has slots. They expire while nobody
/// takes events, as the VM is paused; then all must be known in some way.
fn storm(count: u32) {
    let file = open();
    let before = device_info(&file).events_lost;
    let watches: Vec<_> = (0..count).map(|_| anonymous(&file)).collect();
    for &watch in &watches {
        ok(&file, TIMEOUT, watch, 4_000 * MS);
    }
    println!("armed");
    let mut events = Vec::new();
    while polled(
        &file,
        Duration::from_secs(if events.is_empty() { 60 } else { 1 }),
    ) == PollFlags::IN
    {
        events.push(read_event(&file));
    }
    let lost = device_info(&file).events_lost - before;
    assert!(
        lost > 0,
        "the ring did not overflow: {} events",
        events.len()
    );
    assert_eq!(
        events.len() as u64 + lost,
        u64::from(count),
        "each is told or counted"
    );
    assert!(
        events.iter().all(|event| event.dropped == 0),
        "this reader lost none"
    );
    for &watch in &watches {
        let reading = ok(&file, READ, watch, 0);
        assert_eq!(
            (reading.timeouts, reading.deadline_ns),
            (1, 0),
            "the truth is in the state"
        );
    }
    // And it is told that there is something to look at: by the next event.
    ok(&file, TIMEOUT, watches[0], MS);
    let next = read_event(&file);
    let first = events.first().expect("some were told").sequence;
    assert_eq!(
        next.sequence - first,
        u64::from(count),
        "a gap in the sequence"
    );
    figure(format_args!(
        "{count} timeouts in a paused VM: {} events told, {lost} counted as lost, each stopwatch \
         counted its own",
        events.len()
    ));
}

/// Runs a command in a terminal of 30 lines of 130 for a while, presses `q`, and
/// prints the words that it wrote on the screen.
fn terminal(a_while: Duration, command: &[&str]) -> ExitCode {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: 30,
        ws_col: 130,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let open_end = || File::options().read(true).write(true).open(&path).unwrap();
    let end: OwnedFd = open_end().into();
    let mut process = Command::new(command[0])
        .args(&command[1..])
        .stdin(end.try_clone().unwrap())
        .stdout(end.try_clone().unwrap())
        .stderr(end)
        .spawn()
        .unwrap();
    let mut screen = File::from(master);
    let mut keys = screen.try_clone().unwrap();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        match screen.read_to_end(&mut bytes) {
            // The other end is closed: EIO.
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => {}
            _ => {}
        }
        bytes
    });
    thread::sleep(a_while);
    keys.write_all(b"q").unwrap();
    let status = process.wait().unwrap();
    println!("{}", words(&reader.join().unwrap()));
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| code.try_into().ok()).unwrap_or(1))
}

/// The text between a terminal's control sequences.
fn words(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut chars = String::from_utf8_lossy(bytes)
        .into_owned()
        .chars()
        .collect::<Vec<_>>()
        .into_iter();
    while let Some(char) = chars.next() {
        match char {
            '\x1b' => {
                // ESC [ parameters, up to a letter.
                if chars.next() == Some('[') {
                    chars.by_ref().find(|c| c.is_ascii_alphabetic());
                }
                text.push(' ');
            }
            char if char.is_control() => text.push(' '),
            char => text.push(char),
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
