// SPDX-License-Identifier: MIT OR Apache-2.0

//! Programs of one user that do what they may do as often as they can, with anything
//! for an argument, until they are killed.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::thread;

use stopwatch::host::map_region;
use stopwatch_protocol::memory::Memory;
use stopwatch_tests::signals::interruptible;
use stopwatch_tests::suite::beside;
use stopwatch_uapi::*;

use crate::mapping::map;
use crate::posts::{bind, map_ring};
use crate::*;

/// What there is a program for.
pub(crate) const FLOODS: [&str; 6] = ["bind", "create", "timeout", "post", "look", "read"];

/// Threads of a program.
pub(crate) const THREADS: u32 = 2;

/// With what the names of stopwatches begin that a killed program leaves behind.
pub(crate) const NAME: &str = "flood";

/// How much it has done is counted in the page that is its standard input, in the words
/// from number `first` on.
pub(crate) fn flood(what: &str, first: u32) -> ! {
    let page = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let counts = map_region(page, 4096).unwrap();
    let step = match what {
        "bind" => bind_and_let_go,
        "create" => create_and_delete,
        "timeout" => arm_and_close,
        "post" => post_garbage,
        "look" => look,
        "read" => wait_in_vain,
        _ => panic!("no such flood: {what}"),
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let counts = &counts;
            scope.spawn(move || {
                let word = 8 * (first + thread);
                let mut random = Random((counts.load(word) << 8) | u64::from(word) | 1);
                loop {
                    step(&mut random);
                    counts.store(word, counts.load(word) + 1);
                }
            });
        }
    });
    unreachable!("they run until they are killed")
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % limit
    }
}

/// One of those that are everybody's, or a number that may be another user's.
fn any(random: &mut Random) -> u32 {
    40 + random.below(60)
}

fn bind_and_let_go(random: &mut Random) {
    let file = open();
    if bind(&file, any(random)).is_err() {
        return;
    }
    let Ok(ring) = map_ring(&file) else {
        return;
    };
    if random.below(2) == 0 {
        // The mapping outlives it.
        drop(file);
    }
    for _ in 0..16 {
        ring.set_word(4 * random.below(1024) as usize, random.below(u32::MAX));
    }
}

fn create_and_delete(random: &mut Random) {
    let file = open();
    let name = match random.below(4) {
        0 => String::new(),
        _ => format!("{NAME}-{}", random.below(8)),
    };
    let creation = stopwatch_creation {
        name: field(&name),
        mode: random.below(8),
        ..Default::default()
    };
    let (_, watch) = create(&file, creation);
    let _ = give(&file, START, watch, 0);
    let other = any(random);
    let _ = give(&file, SET_MODE, other, u64::from(random.below(8)) << 32);
    let _ = give(&file, DELETE, other, 0);
    let _ = give(&file, DELETE, watch, 0);
}

fn arm_and_close(random: &mut Random) {
    let file = open();
    for _ in 0..random.below(8) {
        let (made, watch) = create(&file, stopwatch_creation::default());
        let periodic = stopwatch_command {
            interval: MS / 10,
            ..command(TIMEOUT, watch, MS / 10)
        };
        if made.is_err() || call(&file, STOPWATCH_IOC_COMMAND, periodic).0.is_err() {
            break;
        }
    }
    let _ = polled(&file, Duration::from_millis(random.below(20).into()));
}

/// Laps of long from now, at any place of the ring, which the host is to take now.
fn post_garbage(random: &mut Random) {
    let file = open();
    let (Ok(()), watch) = create(&file, stopwatch_creation::default()) else {
        return;
    };
    let (Ok(()), Ok(ring)) = (bind(&file, watch), map_ring(&file)) else {
        return;
    };
    let posts = offset_of!(stopwatch_post_ring, posts);
    for round in 0..20 {
        let wrap = (round + 1) & STOPWATCH_POST_WRAP;
        for slot in 0..STOPWATCH_POST_SLOTS as usize {
            ring.set_word(posts + 8 * slot + 4, 1 << 20);
            ring.set_word(posts + 8 * slot, (LAP << STOPWATCH_POST_OP_SHIFT) | wrap);
        }
        let now = STOPWATCH_DOORBELL_SOON + random.below(2);
        let _ = stopwatch_tests::ioctl::ioctl(&file, STOPWATCH_IOC_DOORBELL, now as usize);
    }
}

fn look(random: &mut Random) {
    let file = open();
    if let Ok(pages) = map(&file, 2) {
        pages.word(4 * random.below(2048) as usize);
    }
    let mut from = 0;
    while let Ok(next) = describe(&file, from, STOPWATCH_DESCRIBE_NEXT) {
        from = next.watch + 1;
    }
    let _ = find(&file, format!("{NAME}-{}", random.below(8)));
    let laps = stopwatch_laps {
        watch: any(random),
        ..Default::default()
    };
    let _ = call(&file, STOPWATCH_IOC_LAPS, laps);
    let _ = stopwatch_tests::ioctl::ioctl(
        &file,
        STOPWATCH_IOC_DOORBELL,
        STOPWATCH_DOORBELL_NOW as usize,
    );
    device_info(&file);
}

/// For events, while signals come.
fn wait_in_vain(random: &mut Random) {
    let files: Vec<File> = (0..1 + random.below(32)).map(|_| open()).collect();
    interruptible(|this| {
        let interrupt = || {
            thread::sleep(Duration::from_micros(500));
            this.interrupt();
        };
        beside(interrupt, || {
            for mut file in &files {
                let _ = file.read(&mut [0; RECORD]);
            }
        });
    });
}
