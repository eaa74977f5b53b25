// SPDX-License-Identifier: MIT OR Apache-2.0

//! Commands posted in a ring that is mapped: what they do, and who may have one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::mm::{MapFlags, ProtFlags};
use stopwatch::guest::{Device, Poster};
use stopwatch::{Act, Command, Creation, Share};
use stopwatch_tests::suite::{eventually, figure};
use stopwatch_tests::tests;

use crate::mapping::{map_as, Pages};
use crate::users::{annas, by, mode, ANNA, BERT};
use crate::*;

tests![
    laps_are_at_the_times_of_their_posts,
    it_shows_within_bounded_time,
    a_call_comes_after_what_was_posted,
    more_than_the_ring_holds,
    threads_with_a_ring_each,
    what_cannot_be_posted_is_told,
    it_goes_on_when_the_mode_has_changed,
    it_ends_with_the_stopwatch,
    who_may_have_a_ring,
    what_was_mapped_is_not_for_good,
    how_a_ring_may_be_mapped,
    as_many_as_there_are,
    a_quarter_for_a_user,
    none_for_who_can_only_read,
    nothing_but_its_own_stopwatch,
    a_doorbell_that_there_is_not,
];

const SLOTS: u32 = STOPWATCH_POST_SLOTS;

/// A new stopwatch, and a ring for it.
fn poster(device: &Device) -> (u32, Poster<'_>) {
    let watch = device.create(None, Creation::default()).unwrap();
    let poster = device.poster(watch).unwrap();
    assert!(poster.has_ring());
    (watch, poster)
}

fn call_of(device: &Device, watch: u32) -> stopwatch::Reading {
    device.command(watch, Act::Read).unwrap()
}

fn laps_are_at_the_times_of_their_posts() {
    const LAPS: u32 = 200;
    let device = Device::open(DEVICE).unwrap();
    let (watch, mut poster) = poster(&device);
    let reader = device.reader().unwrap();
    let before = call_of(&device, watch);
    poster.post(Act::Start).unwrap();
    let mut bounds = Vec::new();
    for _ in 0..LAPS {
        let first = reader.read(watch).unwrap();
        poster.post(Act::Lap).unwrap();
        let second = reader.read(watch).unwrap();
        bounds.push((first, second));
    }
    poster.post(Act::Pause).unwrap();
    let after = call_of(&device, watch);
    assert_eq!(after.laps, LAPS);
    let laps = device.laps(watch).unwrap().laps_ns;
    // The start is somewhere between two calls, and each lap as far from it as the
    // readings around it say.
    assert!(after.elapsed_ns <= after.time_ns - before.time_ns);
    let since = |reading: &stopwatch::Reading| reading.time_ns - bounds[0].0.time_ns;
    for (lap, (first, second)) in laps.iter().zip(&bounds) {
        let lap = lap - laps[0];
        let (error, width) = (
            first.error_ns + second.error_ns,
            bounds[0].1.time_ns - bounds[0].0.time_ns,
        );
        assert!(
            lap + width + error >= since(first) && lap <= since(second) + error,
            "{lap} is not between {} and {}",
            since(first),
            since(second)
        );
    }
    assert!(laps.is_sorted());
}

/// The driver does not know of it, but for the doorbell that it was asked for.
fn it_shows_within_bounded_time() {
    let device = Device::open(DEVICE).unwrap();
    let (watch, mut poster) = poster(&device);
    let reader = device.reader().unwrap();
    for round in 0..20 {
        // What the driver knows of the time lasts for this round.
        call_of(&device, watch);
        for act in [Act::Reset, Act::Start, Act::Lap] {
            poster.post(act).unwrap();
        }
        // It may find the timer set, or just not any more.
        thread::sleep(Duration::from_micros(700 * round));
        poster.post(Act::Lap).unwrap();
        let shown = eventually(Duration::from_secs(5), || {
            reader.read_exit_free(watch).is_ok_and(|it| it.laps == 2)
        });
        assert!(shown, "in round {round}");
    }
}

fn a_call_comes_after_what_was_posted() {
    let device = Device::open(DEVICE).unwrap();
    let (watch, mut poster) = poster(&device);
    poster.post(Act::Start).unwrap();
    let mut laps = 0;
    for round in 0..500 {
        poster.post(Act::Lap).unwrap();
        laps += 1;
        if round % 3 == 0 {
            // By the other way to post.
            device.post(watch, Act::Lap).unwrap();
            laps += 1;
        }
        let shown = match round % 2 {
            0 => call_of(&device, watch).laps,
            _ => device.describe(watch).unwrap().laps,
        };
        assert_eq!(shown, laps, "in round {round}");
    }
}

fn more_than_the_ring_holds() {
    const LAPS: u32 = 40 * SLOTS + 7;
    let device = Device::open(DEVICE).unwrap();
    let (watch, mut poster) = poster(&device);
    poster.post(Act::Start).unwrap();
    for _ in 0..LAPS {
        poster.post(Act::Lap).unwrap();
    }
    assert_eq!(call_of(&device, watch).laps, LAPS);
    let laps = device.laps(watch).unwrap().laps_ns;
    assert_eq!(laps.len(), STOPWATCH_LAP_SLOTS as usize);
    assert!(laps.is_sorted());
}

/// Two on one stopwatch, two on one each.
fn threads_with_a_ring_each() {
    const LAPS: u32 = 3000;
    let device = Device::open(DEVICE).unwrap();
    let common = device.create(None, Creation::default()).unwrap();
    device.command(common, Act::Start).unwrap();
    let own = [(); 2].map(|()| device.create(None, Creation::default()).unwrap());
    thread::scope(|scope| {
        for watch in [common, common, own[0], own[1]] {
            let device = &device;
            scope.spawn(move || {
                let mut poster = device.poster(watch).unwrap();
                assert!(poster.has_ring());
                if watch != common {
                    poster.post(Act::Start).unwrap();
                }
                for _ in 0..LAPS {
                    poster.post(Act::Lap).unwrap();
                }
            });
        }
    });
    assert_eq!(call_of(&device, common).laps, 2 * LAPS);
    for watch in own {
        assert_eq!(call_of(&device, watch).laps, LAPS);
    }
}

fn what_cannot_be_posted_is_told() {
    let device = Device::open(DEVICE).unwrap();
    let (watch, mut poster) = poster(&device);
    assert!(poster.post(Act::Read).is_err());
    assert!(poster.post(Act::Read).is_err());
    // That it was refused shows in later readings, and only there.
    poster.post(Act::Lap).unwrap();
    assert_eq!(call_of(&device, watch).laps, 0);
}

fn it_goes_on_when_the_mode_has_changed() {
    let device = Device::open(DEVICE).unwrap();
    let (watch, mut poster) = poster(&device);
    poster.post(Act::Start).unwrap();
    poster.post(Act::Lap).unwrap();
    let share = Command::SetMode {
        uid: 0,
        mode: Share::Control.mode(),
    };
    device.command(watch, share).unwrap();
    poster.post(Act::Lap).unwrap();
    assert!(poster.has_ring());
    assert_eq!(call_of(&device, watch).laps, 2);
}

fn it_ends_with_the_stopwatch() {
    let device = Device::open(DEVICE).unwrap();
    let (watch, mut poster) = poster(&device);
    poster.post(Act::Start).unwrap();
    device.command(watch, Command::Delete).unwrap();
    poster.post(Act::Lap).unwrap_err();
    // Nor does it come to whichever has the number after it.
    let file = open();
    let watch = anonymous(&file);
    let ring = ring(&file, watch);
    ok(&file, DELETE, watch, 0);
    assert_eq!(ring.word(4), 0, "it says so");
    let other = anonymous(&file);
    assert_eq!(other, watch);
    ok(&file, START, other, 0);
    ring.set_word(2048, STOPWATCH_POST_WRAP | (LAP << STOPWATCH_POST_OP_SHIFT));
    assert_eq!(ok(&file, READ, other, 0).laps, 0);
}

pub(crate) fn bind(file: &File, watch: u32) -> Result<(), Errno> {
    let binding = stopwatch_binding {
        watch,
        ..Default::default()
    };
    call(file, STOPWATCH_IOC_BIND, binding).0
}

fn map_ring_as(file: &File, protection: ProtFlags, flags: MapFlags) -> Result<Pages, Errno> {
    map_as(
        file,
        1,
        protection,
        flags,
        STOPWATCH_POST_RING_OFFSET.into(),
    )
}

pub(crate) fn map_ring(file: &File) -> Result<Pages, Errno> {
    map_ring_as(file, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
}

/// A ring for a stopwatch, mapped.
pub(crate) fn ring(file: &File, watch: u32) -> Pages {
    bind(file, watch).unwrap();
    map_ring(file).unwrap()
}

fn who_may_have_a_ring() {
    for (shared, expected) in [
        (0, Err(Errno::NOENT)),
        (STOPWATCH_MODE_READ, Err(Errno::ACCESS)),
        (STOPWATCH_MODE_CONTROL, Ok(())),
    ] {
        let named = annas("posted", shared);
        let Named { ref file, watch } = named;
        assert_eq!(by(BERT, || bind(file, watch)), expected);
        // A file gets one once.
        let again = match expected {
            Ok(()) => Err(Errno::BUSY),
            Err(_) => Ok(()),
        };
        assert_eq!(by(ANNA, || bind(file, watch)), again);
        // A file that is passed on gives another user no more than that.
        let mapped = by(BERT, || map_ring(file).map(drop));
        assert_eq!(mapped, expected);
        // Nor does it after the owner has said so.
        by(ANNA, || ok(file, SET_MODE, watch, mode(ANNA, 0)));
        let mapped = by(BERT, || map_ring(file).map(drop));
        assert_eq!(mapped, Err(Errno::NOENT));
        by(ANNA, || drop(map_ring(file).unwrap()));
    }
    let file = open();
    let beyond = device_info(&file).stopwatches;
    for watch in [beyond - 1, beyond, u32::MAX] {
        assert_eq!(bind(&file, watch), Err(Errno::NOENT), "{watch}");
    }
}

/// Who had the ring mapped while the owner let him has nothing of what the owner does
/// later: that takes another file.
fn what_was_mapped_is_not_for_good() {
    let named = annas("posted again", STOPWATCH_MODE_CONTROL);
    let Named { ref file, watch } = named;
    by(ANNA, || bind(file, watch)).unwrap();
    let ring = by(BERT, || map_ring(file)).unwrap();
    by(ANNA, || ok(file, SET_MODE, watch, mode(ANNA, 0)));
    assert_eq!(ring.word(4), 0, "it is bound no more");
    assert_eq!(by(ANNA, || bind(file, watch)), Err(Errno::BUSY));
    let other = open();
    by(ANNA, || bind(&other, watch)).unwrap();
    let annas = by(ANNA, || map_ring(&other)).unwrap();
    assert_eq!((ring.word(4), annas.word(4)), (0, 1));
    let post = STOPWATCH_POST_WRAP | (RESET << STOPWATCH_POST_OP_SHIFT);
    ring.set_word(2048, post);
    assert_eq!(
        ok(file, READ, watch, 0).laps,
        1,
        "nothing of Bert's is done"
    );
    annas.set_word(2048, post);
    assert_eq!(ok(file, READ, watch, 0).laps, 0);
}

fn how_a_ring_may_be_mapped() {
    const RW: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);
    let file = open();
    assert_eq!(map_ring(&file).err(), Some(Errno::NXIO), "it has none yet");
    bind(&file, 41).unwrap();
    for (protection, flags) in [
        (RW, MapFlags::PRIVATE),
        (ProtFlags::READ, MapFlags::PRIVATE),
        (RW.union(ProtFlags::EXEC), MapFlags::SHARED),
    ] {
        let mapped = map_ring_as(&file, protection, flags).err();
        assert_eq!(mapped, Some(Errno::INVAL), "{protection:?} {flags:?}");
    }
    let offset = u64::from(STOPWATCH_POST_RING_OFFSET);
    for (pages, offset, errno) in [(2, offset, Errno::INVAL), (1, offset + 4096, Errno::INVAL)] {
        let mapped = map_as(&file, pages, RW, MapFlags::SHARED, offset).err();
        assert_eq!(mapped, Some(errno));
    }
    let ring = map_ring(&file).unwrap();
    assert_eq!(
        (ring.word(0), ring.word(4)),
        (0, 1),
        "none taken, and bound"
    );
    // It lasts as long as the mapping, also if the file is closed; then it is free.
    drop(file);
    assert_eq!(ring.word(4), 1);
    drop(ring);
    let reads = File::open(DEVICE).unwrap();
    bind(&reads, 41).unwrap();
    assert_eq!(
        map_ring(&reads).err(),
        Some(Errno::ACCESS),
        "the file is not open for writing"
    );
}

/// The kernel gives a ring back when its file is closed.
fn as_many_as_there_are() {
    for round in 0..3 {
        let mut files = Vec::new();
        let refused = loop {
            let file = open();
            match bind(&file, 42) {
                Ok(()) => files.push(file),
                Err(errno) => break errno,
            }
        };
        assert_eq!(refused, Errno::NOSPC);
        assert_eq!(files.len(), STOPWATCH_MAX_POST_RINGS as usize, "{round}");
        // One that has a ring has no other, and not for another stopwatch.
        assert_eq!(bind(&files[0], 43), Err(Errno::BUSY));
        // Who gets none posts as before.
        let device = Device::open(DEVICE).unwrap();
        let watch = device.create(None, Creation::default()).unwrap();
        let mut poster = device.poster(watch).unwrap();
        assert!(!poster.has_ring());
        poster.post(Act::Start).unwrap();
        assert!(call_of(&device, watch).laps == 0);
        drop(files);
    }
}

/// Users without privileges do not take them from each other.
fn a_quarter_for_a_user() {
    let quota = STOPWATCH_MAX_POST_RINGS as usize / 4;
    let mut files = Vec::new();
    for user in [ANNA, BERT] {
        for has in 0.. {
            let file = open();
            match by(user, || bind(&file, 42)) {
                Ok(()) => files.push(file),
                Err(errno) => {
                    assert_eq!((errno, has), (Errno::DQUOT, quota), "{user}");
                    break;
                }
            }
        }
    }
    // One goes, one comes.
    files.pop();
    files.push(open());
    by(BERT, || bind(files.last().unwrap(), 43)).unwrap();
    // Root has no quota.
    while files.len() < STOPWATCH_MAX_POST_RINGS as usize {
        files.push(open());
        bind(files.last().unwrap(), 42).unwrap();
    }
    assert_eq!(bind(&open(), 42), Err(Errno::NOSPC));
}

fn none_for_who_can_only_read() {
    let file = File::open(DEVICE).unwrap();
    assert_eq!(by(ANNA, || bind(&file, 42)), Err(Errno::BADF));
    assert_eq!(
        by(ANNA, || create(&file, stopwatch_creation::default()).0),
        Err(Errno::BADF)
    );
    // As with the mapping, root may.
    bind(&file, 42).unwrap();
    anonymous(&file);
}

/// Whatever a program writes into its ring.
fn nothing_but_its_own_stopwatch() {
    let device = Device::open(DEVICE).unwrap();
    let reader = device.reader().unwrap();
    let (other, mut honest) = poster(&device);
    honest.post(Act::Start).unwrap();
    let file = open();
    let watch = anonymous(&file);
    let ring = ring(&file, watch);
    let seed = AtomicU64::new(call_of(&device, other).time_ns | 1);
    let random = || {
        let mut x = seed.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        seed.store(x, Ordering::Relaxed);
        x
    };
    for round in 0..300u32 {
        for _ in 0..40 {
            let offset = random() as usize % (4096 / 8) * 8;
            ring.set_word(offset, random() as u32);
            ring.set_word(offset + 4, random() as u32 % 1000);
        }
        honest.post(Act::Lap).unwrap();
        if round % 7 == 0 {
            // Which has the host take all that is there.
            ok(&file, READ, watch, 0);
        }
    }
    assert_eq!(call_of(&device, other).laps, 300);
    assert!(reader.read(other).unwrap().elapsed_ns > 0);
    figure(format_args!(
        "12,000 words of garbage in a post ring, and 300 laps in another one undisturbed"
    ));
}

fn a_doorbell_that_there_is_not() {
    let file = open();
    let ring = |argument| stopwatch_tests::ioctl::ioctl(&file, STOPWATCH_IOC_DOORBELL, argument);
    assert_eq!(ring(STOPWATCH_DOORBELL_SOON as usize), Ok(()));
    assert_eq!(ring(STOPWATCH_DOORBELL_NOW as usize), Ok(()));
    for argument in [2, 4095, usize::MAX] {
        assert_eq!(ring(argument), Err(Errno::INVAL), "{argument:#x}");
    }
}
