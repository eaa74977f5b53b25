// SPDX-License-Identifier: MIT OR Apache-2.0

//! What mmap() shows, held against calls.

use std::ffi::c_void;
use std::ptr;
use std::time::Instant;

use rustix::io::Errno;
use rustix::mm::{mmap, mprotect, munmap, MapFlags, MprotectFlags, ProtFlags};
use stopwatch::guest::Device;
use stopwatch::protocol::unavailable::Unavailable;
use stopwatch::{protocol, Act, ClockId, Command, Creation, Reading, Source, Timeout};
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::*;

tests![
    readings_hold_their_bound,
    a_stopped_one_is_exact,
    other_clocks_take_a_call,
    read_only,
    no_more_than_there_is,
    records_say_what_calls_say,
];

const PAGE: usize = 4096;

/// Pages of the device from offset 0 on.
pub(crate) struct Pages {
    base: *mut c_void,
    size: usize,
}

// SAFETY: they are the process's, and only read and written as a whole word.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// The 32-bit word at `offset`.
    pub(crate) fn word(&self, offset: usize) -> u32 {
        assert!(offset % 4 == 0 && offset + 4 <= self.size);
        // SAFETY: within the mapping, which is ours as long as `self` lives.
        unsafe { self.base.byte_add(offset).cast::<u32>().read_volatile() }
    }

    /// Writes there, in pages that were mapped for that.
    pub(crate) fn set_word(&self, offset: usize, value: u32) {
        assert!(offset % 4 == 0 && offset + 4 <= self.size);
        let word = self.base.cast::<u32>();
        // SAFETY: as in `word()`.
        unsafe { word.byte_add(offset).write_volatile(value) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nothing borrows from the mapping, it is ours.
        unsafe { munmap(self.base, self.size) }.unwrap();
    }
}

/// Maps so many pages from an offset on.
pub(crate) fn map_as(
    file: &File,
    pages: usize,
    protection: ProtFlags,
    flags: MapFlags,
    offset: u64,
) -> Result<Pages, Errno> {
    let size = pages * PAGE;
    // SAFETY: a new mapping, where the kernel likes it.
    let base = unsafe { mmap(ptr::null_mut(), size, protection, flags, file, offset)? };
    Ok(Pages { base, size })
}

/// Maps so many pages, as a program does it.
pub(crate) fn map(file: &File, pages: usize) -> Result<Pages, Errno> {
    map_as(file, pages, ProtFlags::READ, MapFlags::SHARED, 0)
}

fn call_of(device: &Device, watch: u32) -> Reading {
    device.command(watch, Act::Read).unwrap()
}

fn readings_hold_their_bound() {
    const READINGS: usize = 300;
    let device = Device::open(DEVICE).unwrap();
    let reader = device.reader().unwrap();
    let watch = device.create(None, Creation::default()).unwrap();
    let started = device.command(watch, Act::Start).unwrap().time_ns;
    let mut bounds = Vec::new();
    let mut renewed = 0;
    while bounds.len() < READINGS {
        let before = call_of(&device, watch);
        let mapped = match reader.read_exit_free(watch) {
            Ok(reading) => reading,
            // The call has renewed it, but this task may have slept since.
            Err(why) if why == Unavailable::Stale.into() && renewed < READINGS => {
                renewed += 1;
                continue;
            }
            Err(why) => panic!("no reading without a call: {why}"),
        };
        let after = call_of(&device, watch);
        let bound = mapped.error_ns;
        assert_eq!(mapped.source, Source::ExitFree);
        assert_eq!(mapped.elapsed_ns, mapped.time_ns - started);
        assert!(
            before.time_ns <= mapped.time_ns + bound && mapped.time_ns <= after.time_ns + bound,
            "{mapped:?} is not between {before:?} and {after:?}"
        );
        assert_eq!((mapped.running, mapped.laps), (after.running, after.laps));
        bounds.push(bound);
    }
    bounds.sort_unstable();
    // What the two ways cost.
    const TURNS: u32 = 500;
    let begin = Instant::now();
    for _ in 0..TURNS {
        reader.read(watch).unwrap();
    }
    let mapped = begin.elapsed() / TURNS;
    let begin = Instant::now();
    for _ in 0..TURNS {
        call_of(&device, watch);
    }
    let called = begin.elapsed() / TURNS;
    figure(format_args!(
        "{READINGS} mapped readings within their bound of {} ns (the middle one); {mapped:.0?} \
         each, a call {called:.0?}",
        bounds[READINGS / 2]
    ));
    assert!(mapped < called, "a mapped reading costs less than a call");
}

fn a_stopped_one_is_exact() {
    let device = Device::open(DEVICE).unwrap();
    let reader = device.reader().unwrap();
    let watch = device.create(None, Creation::default()).unwrap();
    let timeout = Timeout {
        ns: 3_600_000 * MS,
        ..Default::default()
    };
    device.command(watch, Act::Start).unwrap();
    device.command(watch, Act::Lap).unwrap();
    device.command(watch, timeout).unwrap();
    device.command(watch, Act::Pause).unwrap();
    let called = call_of(&device, watch);
    let mapped = reader.read_exit_free(watch).unwrap();
    assert_eq!(mapped.source, Source::ExitFree);
    let mapped = protocol::reading::Reading {
        time_ns: called.time_ns,
        ..mapped.shown
    };
    assert_eq!(mapped, called.shown);
    device.command(watch, Command::Delete).unwrap();
    assert_eq!(
        reader.read_exit_free(watch),
        Err(Unavailable::NoSuchWatch.into())
    );
    let beyond = device.info().unwrap().stopwatches;
    assert_eq!(
        reader.read_exit_free(beyond),
        Err(Unavailable::NoSuchWatch.into())
    );
}

fn other_clocks_take_a_call() {
    let device = Device::open(DEVICE).unwrap();
    let reader = device.reader().unwrap();
    for clock in [ClockId::MonotonicRaw, ClockId::Boottime] {
        let creation = Creation {
            clock,
            ..Default::default()
        };
        let watch = device.create(None, creation).unwrap();
        reader
            .read_exit_free(watch)
            .expect("a stopped one shows what it shows");
        device.command(watch, Act::Start).unwrap();
        assert_eq!(
            reader.read_exit_free(watch),
            Err(Unavailable::OtherClock.into())
        );
        assert_eq!(reader.read(watch).unwrap().source, Source::Call);
    }
}

fn read_only() {
    let file = open();
    for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
        for protection in [
            ProtFlags::READ | ProtFlags::WRITE,
            ProtFlags::WRITE,
            ProtFlags::READ | ProtFlags::EXEC,
        ] {
            let mapped = map_as(&file, 1, protection, flags, 0);
            assert_eq!(
                mapped.err(),
                Some(Errno::INVAL),
                "{protection:?}, {flags:?}"
            );
        }
    }
    // Nor afterwards.
    let pages = map(&file, 1).unwrap();
    for more in [MprotectFlags::WRITE, MprotectFlags::EXEC] {
        // SAFETY: the mapping is ours and holds nothing of Rust's.
        let result = unsafe { mprotect(pages.base, PAGE, MprotectFlags::READ | more) };
        assert_eq!(result, Err(Errno::ACCESS), "{more:?}");
    }
}

fn no_more_than_there_is() {
    let file = open();
    let all = 1 + device_info(&file).state_size as usize / PAGE;
    let whole = map(&file, all).expect("all of it");
    for page in 0..all {
        whole.word(page * PAGE);
    }
    assert_eq!(map(&file, all + 1).err(), Some(Errno::INVAL));
    let read = |offset: usize| {
        let offset = (offset * PAGE) as u64;
        map_as(&file, 1, ProtFlags::READ, MapFlags::SHARED, offset)
    };
    let last = read(all - 1).expect("the last page");
    assert_eq!(last.word(0), whole.word((all - 1) * PAGE));
    assert_eq!(read(all).err(), Some(Errno::INVAL));
}

/// The state pages have the truth about each stopwatch, also what no reading has.
fn records_say_what_calls_say() {
    let named = Named::of(stopwatch_creation {
        name: field("mapped"),
        clock: STOPWATCH_CLOCK_BOOTTIME,
        mode: STOPWATCH_MODE_CONTROL,
        flags: STOPWATCH_CREATE_SKIP_PAUSED,
        ..Default::default()
    });
    let Named { ref file, watch } = named;
    ok(file, START, watch, 0);
    ok(file, LAP, watch, 0);
    ok(file, LAP, watch, 0);
    let info = device_info(file);
    let pages = map(file, 1 + info.state_size as usize / PAGE).unwrap();
    let record = PAGE + info.record_offset as usize + watch as usize * info.record_size as usize;
    let word = |offset| pages.word(record + offset);
    let described = describe(file, watch, 0).unwrap();
    for (offset, expected) in [
        (offset_of!(stopwatch_record, laps), described.laps),
        (offset_of!(stopwatch_record, timeouts), described.timeouts),
        (offset_of!(stopwatch_record, uid), described.uid),
        (offset_of!(stopwatch_record, mode), described.mode),
        (offset_of!(stopwatch_record, flags), described.record_flags),
    ] {
        assert_eq!(word(offset), expected, "at {offset}");
    }
    assert_eq!(described.state, STOPWATCH_RUNNING);
    assert_eq!(
        described.record_flags,
        STOPWATCH_RECORD_EXISTS
            | STOPWATCH_RECORD_SKIP_PAUSED
            | STOPWATCH_RECORD_RUNNING
            | (STOPWATCH_CLOCK_BOOTTIME << STOPWATCH_RECORD_CLOCK_SHIFT)
    );
    let name: Vec<u8> = (0..STOPWATCH_NAME_SIZE as usize / 4)
        .flat_map(|part| word(offset_of!(stopwatch_record, name) + 4 * part).to_ne_bytes())
        .collect();
    assert_eq!(name, field("mapped"));
}
