// SPDX-License-Identifier: MIT OR Apache-2.0

//! Whose a stopwatch is, and what others may do with it. Another user is a task
//! of this process with other credentials; the kernel's credentials are a
//! task's. One check has a process of another user's.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::*;

tests![
    nothing_is_shared,
    sharing_to_read,
    sharing_to_control,
    root_may_all,
    the_owner_says_what_others_may,
    only_root_gives_away,
    nobody_deletes_what_is_not_theirs,
    numbered_ones_are_everybodys,
    a_file_passed_to_another_user_s_process,
    events_of_what_one_may_see,
    who_may_map,
];

pub(crate) const ANNA: u32 = 1000;
pub(crate) const BERT: u32 = 1001;

/// Runs it as a user who is not root.
pub(crate) fn by<T: Send>(uid: u32, it: impl FnOnce() -> T + Send) -> T {
    let result = thread::scope(|scope| {
        scope
            .spawn(|| {
                let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
                set_thread_groups(&[]).unwrap();
                set_thread_res_gid(group, group, group).unwrap();
                set_thread_res_uid(user, user, user).unwrap();
                it()
            })
            .join()
    });
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// A stopwatch of Anna's, with a lap.
pub(crate) fn annas(name: &str, mode: u32) -> Named {
    let file = open();
    let creation = stopwatch_creation {
        name: field(name),
        mode,
        ..Default::default()
    };
    let (result, watch) = by(ANNA, || create(&file, creation));
    assert_eq!(result, Ok(()), "{name}");
    let named = Named { file, watch };
    by(ANNA, || {
        ok(&named.file, START, watch, 0);
        ok(&named.file, LAP, watch, 0);
        assert_eq!(describe(&named.file, watch, 0).unwrap().uid, ANNA);
    });
    named
}

/// What changes a stopwatch, apart from deleting it or its mode.
const CONTROL: [u32; 6] = [PAUSE, START, LAP, RESET, READ_RESET, TIMEOUT];

/// What each way to look at it, and each to change it, says to the current task.
fn looks(named: &Named, name: &str) -> Vec<Result<(), Errno>> {
    let Named { ref file, watch } = *named;
    let laps = stopwatch_laps {
        watch,
        ..Default::default()
    };
    vec![
        give(file, READ, watch, 0).0,
        describe(file, watch, 0).map(drop),
        find(file, name).map(drop),
        call(file, STOPWATCH_IOC_LAPS, laps).0,
    ]
}

fn controls(named: &Named) -> Vec<Result<(), Errno>> {
    let Named { ref file, watch } = *named;
    let posted = stopwatch_command {
        flags: STOPWATCH_REQUEST_POSTED,
        ..command(RESET, watch, 0)
    };
    let mut results: Vec<_> = CONTROL
        .iter()
        .map(|&op| give(file, op, watch, 0).0)
        // What it shows is no refusal.
        .map(|result| match result {
            Err(Errno::ALREADY | Errno::NODATA) => Ok(()),
            result => result,
        })
        .collect();
    results.push(call(file, STOPWATCH_IOC_COMMAND, posted).0);
    results
}

/// A mode for a user.
pub(crate) fn mode(uid: u32, mode: u32) -> u64 {
    u64::from(uid) | (u64::from(mode) << 32)
}

fn owns(named: &Named) -> [Result<(), Errno>; 2] {
    let Named { ref file, watch } = *named;
    [
        give(file, SET_MODE, watch, mode(ANNA, 3)).0,
        give(file, DELETE, watch, 0).0,
    ]
}

fn all<T: PartialEq + std::fmt::Debug + Copy>(results: impl AsRef<[T]>, expected: T) {
    let results = results.as_ref();
    assert_eq!(results, vec![expected; results.len()]);
}

fn nothing_is_shared() {
    let named = annas("private", 0);
    by(BERT, || {
        all(looks(&named, "private"), Err(Errno::NOENT));
        all(controls(&named), Err(Errno::NOENT));
        all(owns(&named), Err(Errno::NOENT));
        let next = describe(&named.file, named.watch, STOPWATCH_DESCRIBE_NEXT);
        assert!(next.is_err() || next.is_ok_and(|next| next.watch > named.watch));
        // That the name is taken cannot be hidden, but whose it is.
        let same = stopwatch_creation {
            name: field("private"),
            ..Default::default()
        };
        assert_eq!(create(&named.file, same), (Err(Errno::EXIST), u32::MAX));
    });
    let untouched = by(ANNA, || describe(&named.file, named.watch, 0)).unwrap();
    assert_eq!((untouched.state, untouched.laps), (STOPWATCH_RUNNING, 1));
}

fn sharing_to_read() {
    let named = annas("readable", STOPWATCH_MODE_READ);
    by(BERT, || {
        all(looks(&named, "readable"), Ok(()));
        all(controls(&named), Err(Errno::ACCESS));
        all(owns(&named), Err(Errno::ACCESS));
        assert_eq!(describe(&named.file, named.watch, 0).unwrap().uid, ANNA);
        let same = stopwatch_creation {
            name: field("readable"),
            ..Default::default()
        };
        assert_eq!(create(&named.file, same), (Err(Errno::EXIST), named.watch));
    });
    let untouched = by(ANNA, || describe(&named.file, named.watch, 0)).unwrap();
    assert_eq!((untouched.state, untouched.laps), (STOPWATCH_RUNNING, 1));
}

fn sharing_to_control() {
    for shared in [
        STOPWATCH_MODE_CONTROL,
        STOPWATCH_MODE_CONTROL | STOPWATCH_MODE_READ,
    ] {
        let named = annas("common", shared);
        by(BERT, || {
            all(looks(&named, "common"), Ok(()));
            all(controls(&named), Ok(()));
            all(owns(&named), Err(Errno::ACCESS));
        });
    }
}

fn root_may_all() {
    let named = annas("anna's", 0);
    all(looks(&named, "anna's"), Ok(()));
    all(controls(&named), Ok(()));
    all(owns(&named), Ok(()));
    assert_eq!(describe(&named.file, named.watch, 0), Err(Errno::NOENT));
}

/// It counts at each call, not from when the file was opened.
fn the_owner_says_what_others_may() {
    let named = annas("changing", 0);
    let Named { ref file, watch } = named;
    let read = || by(BERT, || give(file, READ, watch, 0).0);
    let pause = || by(BERT, || give(file, TIMEOUT, watch, 0).0);
    for (allowed, reads, pauses) in [
        (STOPWATCH_MODE_READ, Ok(()), Err(Errno::ACCESS)),
        (STOPWATCH_MODE_CONTROL, Ok(()), Ok(())),
        (0, Err(Errno::NOENT), Err(Errno::NOENT)),
    ] {
        by(ANNA, || ok(file, SET_MODE, watch, mode(ANNA, allowed)));
        assert_eq!((read(), pause()), (reads, pauses), "mode {allowed}");
    }
    by(ANNA, || {
        refused(file, SET_MODE, watch, mode(ANNA, 4), Errno::INVAL);
        refused(file, SET_MODE, watch, mode(u32::MAX, 0), Errno::INVAL);
    });
}

fn only_root_gives_away() {
    let named = annas("gift", 0);
    let Named { ref file, watch } = named;
    by(ANNA, || {
        refused(file, SET_MODE, watch, mode(BERT, 3), Errno::ACCESS);
        ok(file, READ, watch, 0);
    });
    ok(file, SET_MODE, watch, mode(BERT, 0));
    by(ANNA, || refused(file, READ, watch, 0, Errno::NOENT));
    by(BERT, || {
        assert_eq!(describe(file, watch, 0).unwrap().uid, BERT);
        assert_eq!(ok(file, READ, watch, 0).laps, 1, "it is as it was");
        ok(file, DELETE, watch, 0);
    });
}

fn nobody_deletes_what_is_not_theirs() {
    let named = Named::shared("root's", STOPWATCH_MODE_CONTROL);
    let Named { ref file, watch } = named;
    by(ANNA, || {
        refused(file, DELETE, watch, 0, Errno::ACCESS);
        refused(file, SET_MODE, watch, mode(ANNA, 0), Errno::ACCESS);
    });
    // Whose file it is makes no difference: it goes with that of another user.
    let anna = open();
    let watch = by(ANNA, || anonymous(&anna));
    ok(file, READ, watch, 0);
    drop(anna);
    refused(file, READ, watch, 0, Errno::NOENT);
}

fn numbered_ones_are_everybodys() {
    let file = open();
    by(BERT, || {
        ok(&file, RESET, 59, 0);
        ok(&file, START, 59, 0);
        ok(&file, READ_RESET, 59, 0);
        refused(&file, DELETE, 59, 0, Errno::INVAL);
    });
}

/// It gives that one no more than it had: the same file is all to its owner, and
/// nothing to the other.
fn a_file_passed_to_another_user_s_process() {
    let private = annas("not passed on", 0);
    let readable = annas("to be read", STOPWATCH_MODE_READ);
    let child = |uid| {
        let output = Command::new("/proc/self/exe")
            .args([
                "passed",
                &private.watch.to_string(),
                &readable.watch.to_string(),
            ])
            .uid(uid)
            .gid(uid)
            .stdin(Stdio::from(private.file.try_clone().unwrap()))
            .output()
            .expect("a process of another user");
        String::from_utf8(output.stdout).unwrap()
    };
    let nothing = "read ENOENT, pause ENOENT; read ok, pause EACCES\n";
    let everything = "read ok, pause ok; read ok, pause ok\n";
    assert_eq!(child(BERT), nothing);
    assert_eq!(child(ANNA), everything);
}

/// The device's node, as one that everybody may open.
pub(crate) struct OpenNode;

impl OpenNode {
    pub(crate) fn new() -> Self {
        Self::set(0o666);
        Self
    }

    fn set(mode: u32) {
        fs::set_permissions(DEVICE, Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for OpenNode {
    fn drop(&mut self) {
        Self::set(0o600);
    }
}

fn events_of_what_one_may_see() {
    let node = OpenNode::new();
    let (anna, bert) = (by(ANNA, open), by(BERT, open_nonblocking));
    drop(node);
    let private = annas("private events", 0);
    let public = annas("public events", STOPWATCH_MODE_READ);
    for named in [&private, &public] {
        by(ANNA, || ok(&named.file, TIMEOUT, named.watch, MS));
        assert_eq!(read_event(&anna).watch, named.watch);
    }
    // Anna has both, so the other file has what it gets.
    assert_eq!(read_event(&bert).watch, public.watch);
    assert_eq!(polled(&bert, Duration::ZERO), PollFlags::empty());
    // For events it counts who opened the file, whoever reads it.
    by(ANNA, || ok(&private.file, TIMEOUT, private.watch, MS));
    assert_eq!(by(BERT, || read_event(&anna)).watch, private.watch);
    // What changes hands while it is on its way is the new one's to know.
    ok(&private.file, SET_MODE, private.watch, mode(BERT, 0));
    ok(&private.file, TIMEOUT, private.watch, MS);
    polled(&bert, Duration::from_secs(10));
    assert_eq!(read_event(&bert).watch, private.watch);
    assert_eq!(polled(&anna, Duration::ZERO), PollFlags::empty());
}

fn who_may_map() {
    let read_only = || File::open(DEVICE).unwrap();
    let refused = |file: &File| mapping::map(file, 1).err();
    // Root may, whatever the file is open for; so may who can open it for writing.
    assert_eq!(refused(&read_only()), None);
    let node = OpenNode::new();
    let (reads, writes) = (by(ANNA, read_only), by(ANNA, open));
    drop(node);
    assert_eq!(by(ANNA, || refused(&reads)), Some(Errno::ACCESS));
    assert_eq!(by(ANNA, || refused(&writes)), None);
    // A file that root opened for reading is not for another user to map.
    let roots = read_only();
    assert_eq!(by(ANNA, || refused(&roots)), Some(Errno::ACCESS));
}
