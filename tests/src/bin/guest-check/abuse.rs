// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs of one user that use the device as much as they can, and are killed in the
//! middle of it, beside one of another user, whose calls and timeouts still come. Nothing is
//! left of them.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::{self, sleep};
use std::time::Instant;

use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use stopwatch::guest::Device;
use stopwatch::host::{map_region, Region};
use stopwatch::{Act, Creation};
use stopwatch_protocol::memory::Memory;
use stopwatch_tests::signals::interruptible;
use stopwatch_tests::suite::{beside, eventually, figure};
use stopwatch_tests::tests;

use crate::floods::{FLOODS, NAME, THREADS};
use crate::posts::{bind, ring};
use crate::users::{by, OpenNode, ANNA, BERT};
use crate::*;

tests![
    an_honest_program_beside_floods,
    a_signal_ends_a_listing,
    creating_beside_those_who_create_and_delete,
];

/// All stopwatches, for scripts.
const LIST: &str = "/sys/kernel/debug/stopwatch/list";

/// How long the floods go on, at least.
const TIME: Duration = Duration::from_secs(4);

/// What the honest program does meanwhile, at least.
const ROUNDS: u32 = 20;

/// The programs, one of each kind. Those that are dropped have ended.
struct Floods {
    counts: Region,
    page: File,
    programs: Vec<Child>,
    killed: usize,
}

impl Floods {
    fn new() -> Self {
        let page = memfd_create("counts", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&page, 4096).unwrap();
        let counts = map_region(&page, 4096).unwrap();
        let mut floods = Self {
            counts,
            page: page.into(),
            programs: Vec::new(),
            killed: 0,
        };
        for number in 0..FLOODS.len() {
            let program = floods.start(number);
            floods.programs.push(program);
        }
        floods
    }

    fn start(&self, number: usize) -> Child {
        let first = number as u32 * THREADS;
        Command::new("/proc/self/exe")
            .args(["flood", FLOODS[number], &first.to_string()])
            .stdin(self.page.try_clone().unwrap())
            .uid(BERT)
            .gid(BERT)
            .spawn()
            .expect("this program can be run again")
    }

    /// Kills one, whatever it does now, and starts another one.
    fn kill_one(&mut self) {
        let number = self.killed % FLOODS.len();
        let program = self.start(number);
        let mut former = std::mem::replace(&mut self.programs[number], program);
        former.kill().unwrap();
        former.wait().unwrap();
        self.killed += 1;
    }

    /// Kills them all, and says how often each of them has done what it does.
    fn end(self) -> String {
        let counts = FLOODS.iter().zip(0..).map(|(what, number)| {
            let words = number * THREADS..(number + 1) * THREADS;
            let count: u64 = words.map(|word| self.counts.load(8 * word)).sum();
            assert!(count > 0, "nothing was flooded by {what}");
            format!("{what} {count}")
        });
        format!(
            "{} programs killed in {}",
            self.killed + FLOODS.len(),
            counts.collect::<Vec<_>>().join(", ")
        )
    }
}

impl Drop for Floods {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// The longest that something took, and how often it was done.
#[derive(Default)]
struct Took {
    longest: Duration,
    times: u32,
}

impl Took {
    fn note<R>(&mut self, it: impl FnOnce() -> R) -> R {
        let begin = Instant::now();
        let result = it();
        self.longest = self.longest.max(begin.elapsed());
        self.times += 1;
        result
    }
}

/// All that an honest program does. Each call succeeds, and each act of it counts once.
fn honest(goes_on: impl Fn(u32) -> bool) -> String {
    let device = Device::open(DEVICE).unwrap();
    let own = device.create(None, Creation::default()).unwrap();
    let mut poster = device.poster(own).unwrap();
    assert!(poster.has_ring(), "a quarter of the rings is a user's");
    poster.post(Act::Start).unwrap();
    let file = open_nonblocking();
    let watch = anonymous(&file);
    ok(&file, START, watch, 0);
    let [mut calls, mut timeouts, mut others] = [(); 3].map(|()| Took::default());
    let (mut rounds, mut told, mut last) = (0, 0, 0);
    while goes_on(rounds) {
        rounds += 1;
        poster.post(Act::Lap).unwrap();
        let reading = calls.note(|| ok(&file, LAP, watch, 0));
        assert_eq!(reading.laps, rounds);
        assert!(reading.elapsed_ns > last, "it runs");
        last = reading.elapsed_ns;
        assert_eq!(ok(&file, READ, own, 0).laps, rounds, "each post counts");
        timeouts.note(|| {
            ok(&file, TIMEOUT, watch, 2 * MS);
            let expired = eventually(Duration::from_secs(20), || {
                ok(&file, READ, watch, 0).timeouts == rounds
            });
            assert!(expired, "timeout {rounds} of an honest program");
        });
        while polled(&file, Duration::from_millis(20)) == PollFlags::IN {
            let mut record = [0; RECORD];
            match (&file).read_exact(&mut record) {
                Ok(()) => told += u32::from(event(&record).watch == watch),
                // Before it was read, newer ones took its place, none of which is to be seen.
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        if rounds % 8 == 0 {
            others.note(|| {
                let file = open();
                drop(ring(&file, anonymous(&file)));
            });
        }
    }
    format!(
        "{} calls, the slowest {} ms; {} timeouts, the slowest {} ms, {told} told; \
         {} rings for new stopwatches, the slowest {} ms",
        calls.times,
        calls.longest.as_millis(),
        timeouts.times,
        timeouts.longest.as_millis(),
        others.times,
        others.longest.as_millis(),
    )
}

/// Stopwatches that were created, but for those that a killed program has left under its
/// names: these are deleted.
fn created(file: &File) -> usize {
    let (mut from, mut created) = (STOPWATCH_NUMBERED, 0);
    while let Ok(next) = describe(file, from, STOPWATCH_DESCRIBE_NEXT) {
        from = next.watch + 1;
        if next.name.starts_with(NAME.as_bytes()) {
            assert_eq!(next.uid, BERT);
            ok(file, DELETE, next.watch, 0);
        } else {
            created += 1;
        }
    }
    created
}

/// The files by which the module is in use.
fn uses() -> String {
    fs::read_to_string("/sys/module/stopwatch/refcnt").unwrap()
}

/// What the kernel has for itself, in KiB.
fn kernel_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let lines = text.lines().filter_map(|line| {
        let (what, amount) = line.split_once(':')?;
        let counts = ["SUnreclaim", "KernelStack", "VmallocUsed", "Percpu"].contains(&what);
        counts.then(|| amount.trim().split(' ').next()?.parse::<u64>().ok())?
    });
    lines.sum()
}

/// What there is before floods, and has to be there after them.
struct Before {
    file: File,
    created: usize,
    uses: String,
}

impl Before {
    fn new() -> Self {
        let file = open();
        Self {
            created: created(&file),
            uses: uses(),
            file,
        }
    }

    /// Nothing of the floods is left.
    fn check(&self) {
        assert_eq!(created(&self.file), self.created, "stopwatches are left");
        assert_eq!(uses(), self.uses, "files are left");
        let files: Vec<_> = (0..STOPWATCH_MAX_POST_RINGS).map(|_| open()).collect();
        for (ring, file) in files.iter().enumerate() {
            assert_eq!(bind(file, 42), Ok(()), "ring {ring} is not free");
        }
    }
}

fn an_honest_program_beside_floods() {
    let before = Before::new();
    let node = OpenNode::new();
    // What is allocated the first time only is so before the second time.
    let mut memory = Vec::new();
    for _ in 0..2 {
        let begin = Instant::now();
        let mut floods = Floods::new();
        let said = {
            let kill = || {
                sleep(Duration::from_millis(100));
                floods.kill_one();
            };
            let goes_on = |rounds| rounds < ROUNDS || begin.elapsed() < TIME;
            beside(kill, || by(ANNA, || honest(goes_on)))
        };
        let counted = floods.end();
        figure(format_args!(
            "beside floods of {} ms, {counted}: {said}",
            begin.elapsed().as_millis(),
        ));
        before.check();
        memory.push(kernel_memory());
    }
    drop(node);
    figure(format_args!(
        "kernel memory after floods: {} KiB, after as many again {} KiB",
        memory[0], memory[1]
    ));
    // Thousands of files were opened, of more than half a KiB each. The debug kernel keeps
    // what was freed, and looks for leaks itself.
    assert!(
        memory[1] < memory[0] + 1024 || Path::new("/sys/kernel/debug/kmemleak").exists(),
        "memory is left: {memory:?} KiB"
    );
}

/// A listing of many stopwatches is ended by a signal, whoever keeps its calls waiting.
fn a_signal_ends_a_listing() {
    let file = open();
    let running: Vec<_> = (0..200).map(|_| anonymous(&file)).collect();
    for &watch in &running {
        ok(&file, START, watch, 0);
    }
    let mut ended = 0;
    interruptible(|this| {
        beside(
            || {
                this.interrupt();
                sleep(Duration::from_micros(100));
            },
            || {
                for _ in 0..200 {
                    match File::open(LIST).unwrap().read(&mut [0; 1 << 16]) {
                        Ok(bytes) => assert!(bytes > 200),
                        Err(error) if error.kind() == ErrorKind::Interrupted => ended += 1,
                        Err(error) => panic!("{error}"),
                    }
                    if ended != 0 {
                        break;
                    }
                }
            },
        );
    });
    assert_ne!(ended, 0, "no listing was ended");
}

/// Numbers go from hand to hand, and each call is for the stopwatch that its program has
/// made.
fn creating_beside_those_who_create_and_delete() {
    const ROUNDS: u32 = 10;
    const OTHERS: u32 = 32;
    let create_and_delete = |file: &File| {
        let watch = anonymous(file);
        assert_eq!(ok(file, START, watch, 0).laps, 0, "it is a new one");
        assert_eq!(ok(file, LAP, watch, 0).laps, 1);
        assert_eq!(ok(file, READ, watch, 0).laps, 1);
        ok(file, DELETE, watch, 0);
    };
    let rounds = || {
        let file = open();
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            create_and_delete(&file);
        }
        begin.elapsed()
    };
    let others = || {
        thread::scope(|scope| {
            for _ in 0..OTHERS {
                scope.spawn(rounds);
            }
        });
    };
    let alone = rounds();
    let together = beside(others, rounds);
    figure(format_args!(
        "{ROUNDS} times created and deleted in {alone:.1?}, beside {OTHERS} others in {together:.1?}"
    ));
}

/// The host serves and serves not, until there is a file at `enough`; whoever calls meanwhile
/// gives up now and then.
pub(crate) fn given_up(enough: &str) {
    let before = Before::new();
    let node = OpenNode::new();
    let floods = Floods::new();
    let file = open();
    let watch = anonymous(&file);
    ok(&file, START, watch, 0);
    println!("flooding");
    let (mut done, mut given_up, mut laps) = (0, 0, 0);
    while !Path::new(enough).exists() {
        let (result, reading) = give(&file, LAP, watch, 0);
        match result {
            Ok(()) => {
                done += 1;
                laps = reading.laps;
            }
            Err(errno) => {
                assert_eq!(errno, Errno::TIMEDOUT);
                given_up += 1;
            }
        }
    }
    let counted = floods.end();
    drop(node);
    assert!(given_up > 0, "the host has served all the time");
    // What was given up is not done, or was when it was given up.
    assert!(
        (done..=done + given_up).contains(&laps),
        "{laps} laps, {done} done"
    );
    assert_eq!(ok(&file, READ, watch, 0).laps, laps, "none comes later");
    drop(file);
    before.check();
    figure(format_args!(
        "beside {counted}, and a host that does not serve now and then: \
         {done} calls done, {given_up} given up"
    ));
}
