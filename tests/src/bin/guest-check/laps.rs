// SPDX-License-Identifier: MIT OR Apache-2.0

//! Laps: those that are kept, and those that are only counted.

use rustix::io::Errno;
use stopwatch_tests::suite::figure;
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::arguments::unwritable;
use crate::*;

tests![
    a_lap_is_what_was_shown,
    the_newest_256_are_kept,
    room_for_fewer,
    a_bad_array,
    a_reset_forgets_them,
    laps_of_none,
];

const SLOTS: u32 = STOPWATCH_LAP_SLOTS;

/// The laps from `first` on with room for `count`, and what the call says.
fn laps(
    file: &File,
    watch: u32,
    first: u32,
    count: u32,
) -> (Result<(), Errno>, stopwatch_laps, Vec<u64>) {
    let mut array = vec![u64::MAX; 2 * SLOTS as usize];
    let laps = stopwatch_laps {
        watch,
        first,
        count,
        laps: array.as_mut_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    let (result, laps) = call(file, STOPWATCH_IOC_LAPS, laps);
    array.retain(|&lap| lap != u64::MAX);
    (result, laps, array)
}

/// Takes laps, and returns what each reading said.
fn take(file: &File, watch: u32, count: u32) -> Vec<u64> {
    (0..count)
        .map(|_| {
            let lap = ok(file, LAP, watch, 0);
            assert_eq!(lap.lap_ns, lap.elapsed_ns);
            lap.elapsed_ns
        })
        .collect()
}

fn a_lap_is_what_was_shown() {
    let file = open();
    let watch = anonymous(&file);
    ok(&file, START, watch, 0);
    let taken = take(&file, watch, 5);
    let (result, said, kept) = laps(&file, watch, 0, SLOTS);
    assert_eq!(result, Ok(()));
    assert_eq!((said.count, said.total, said.oldest), (5, 5, 0));
    assert_eq!(kept, taken);
    assert!(kept.is_sorted());
}

fn the_newest_256_are_kept() {
    const MORE: u32 = 44;
    let file = open();
    let watch = anonymous(&file);
    ok(&file, START, watch, 0);
    let taken = take(&file, watch, SLOTS + MORE);
    for first in [0, MORE - 1] {
        let (result, said, _) = laps(&file, watch, first, SLOTS);
        assert_eq!(result, Err(Errno::NODATA), "lap {first} is kept no longer");
        assert_eq!((said.total, said.oldest), (SLOTS + MORE, MORE));
    }
    let (result, said, kept) = laps(&file, watch, MORE, SLOTS);
    assert_eq!(result, Ok(()));
    assert_eq!(
        (said.count, said.total, said.oldest),
        (SLOTS, SLOTS + MORE, MORE)
    );
    assert_eq!(kept, taken[MORE as usize..]);
    assert_eq!(describe(&file, watch, 0).unwrap().laps, SLOTS + MORE);
    figure(format_args!(
        "{} laps: the newest {} are kept, {} older ones counted",
        said.total, said.count, said.oldest
    ));
}

fn room_for_fewer() {
    let file = open();
    let watch = anonymous(&file);
    ok(&file, START, watch, 0);
    let taken = take(&file, watch, 10);
    for (first, room) in [(0, 3), (4, 3), (8, 3), (0, 0), (9, 1)] {
        let (result, said, kept) = laps(&file, watch, first, room);
        let expected: Vec<_> = taken
            .iter()
            .skip(first as usize)
            .take(room as usize)
            .collect();
        assert_eq!(result, Ok(()), "{room} from {first}");
        assert_eq!(kept.iter().collect::<Vec<_>>(), expected);
        assert_eq!(
            (said.count as usize, said.total, said.oldest),
            (expected.len(), 10, 0),
            "it says how many there are in all"
        );
    }
    // None is there yet, and that is no error. More room than there can be laps
    // is none either.
    for first in [10, 11, u32::MAX] {
        let (result, said, kept) = laps(&file, watch, first, u32::MAX);
        assert_eq!(
            (result, said.count, kept.len()),
            (Ok(()), 0, 0),
            "from {first}"
        );
    }
}

fn a_bad_array() {
    let file = open();
    let watch = anonymous(&file);
    ok(&file, START, watch, 0);
    take(&file, watch, 2);
    for address in [0, 8, u64::MAX - 15, unwritable() as u64] {
        let wanted = stopwatch_laps {
            watch,
            count: 2,
            laps: address,
            ..Default::default()
        };
        let (result, _) = call(&file, STOPWATCH_IOC_LAPS, wanted);
        assert_eq!(result, Err(Errno::FAULT), "{address:#x}");
        // With room for none it is not looked at.
        let nothing = stopwatch_laps { count: 0, ..wanted };
        let (result, said) = call(&file, STOPWATCH_IOC_LAPS, nothing);
        assert_eq!((result, said.total), (Ok(()), 2));
    }
}

fn a_reset_forgets_them() {
    let file = open();
    let watch = anonymous(&file);
    for op in [RESET, READ_RESET] {
        ok(&file, START, watch, 0);
        take(&file, watch, 3);
        ok(&file, op, watch, 0);
        let (result, said, kept) = laps(&file, watch, 0, SLOTS);
        assert_eq!(result, Ok(()));
        assert_eq!(
            (said.count, said.total, said.oldest, kept.len()),
            (0, 0, 0, 0)
        );
    }
}

fn laps_of_none() {
    let file = open();
    for watch in [device_info(&file).stopwatches - 1, 1 << 20, u32::MAX] {
        let (result, ..) = laps(&file, watch, 0, SLOTS);
        assert_eq!(result, Err(Errno::NOENT), "{watch}");
    }
}
