// SPDX-License-Identifier: MIT OR Apache-2.0

//! The memory of a VM: which memfd the host module takes, what it makes of it, and that seals do
//! not change meanwhile.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{
    fcntl_add_seals, ftruncate, memfd_create, open, sendfile, MemfdFlags, Mode, OFlags, SealFlags,
};
use rustix::io::{pwrite, Errno};
use rustix::process::Pid;
use rustix::thread::gettid;
use stopwatch::host::{event_fd, map_region, sealed_memfd, Geometry};
use stopwatch_protocol::layout::Layout;
use stopwatch_protocol::memory::Memory;
use stopwatch_tests::harness::{control, SMALL};
use stopwatch_tests::tests;
use stopwatch_uapi::*;

use crate::control::{closed, refuses, refuses_region, with_geometry, BY_POLICY};

tests![
    what_is_no_memfd,
    a_memfd_of_the_wrong_size,
    a_memfd_with_the_wrong_seals,
    a_memfd_open_for_reading,
    a_hugetlb_memfd,
    the_region_is_cleared_and_described,
    one_memfd_for_two_vms,
    seals_that_change_meanwhile,
];

fn what_is_no_memfd() {
    let (control, size) = with_geometry();
    let number = VHOST_STOPWATCH_SET_REGION;
    let path = open("/dev/shm", OFlags::PATH, Mode::empty()).unwrap();
    for fd in [-1, i32::MIN, i32::MAX, closed(), path.as_raw_fd()] {
        refuses(&control, number, 0, fd, Errno::BADF);
    }
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    refuses_region(&control, null, Errno::INVAL);
    refuses_region(&control, event_fd().unwrap(), Errno::INVAL);
    refuses_region(&control, &control, Errno::INVAL);

    let name = "/dev/shm/stopwatch-test";
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(name)
        .unwrap();
    fs::remove_file(name).unwrap();
    file.write_all(&vec![0; size as usize]).unwrap();
    refuses_region(&control, file, Errno::INVAL);
    control.set_region(sealed_memfd(size).unwrap()).unwrap();
}

fn a_memfd_of_the_wrong_size() {
    let (control, size) = with_geometry();
    for wrong in [
        0,
        1,
        4096,
        size - 4096,
        size - 1,
        size + 1,
        size + 4096,
        2 * size,
        1 << 40,
    ] {
        refuses_region(&control, sealed_memfd(wrong).unwrap(), Errno::INVAL);
    }
    control.set_region(sealed_memfd(size).unwrap()).unwrap();
}

pub(crate) fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let memfd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memfd, size).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

fn a_memfd_with_the_wrong_seals() {
    let (control, size) = with_geometry();
    let good = SealFlags::SHRINK | SealFlags::GROW;
    for seals in [
        SealFlags::empty(),
        SealFlags::SHRINK,
        SealFlags::GROW,
        SealFlags::SEAL,
        good | SealFlags::WRITE,
        good | SealFlags::FUTURE_WRITE,
    ] {
        refuses_region(&control, memfd(size, seals), Errno::INVAL);
    }
    let unsealable = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&unsealable, size).unwrap();
    refuses_region(&control, unsealable, Errno::INVAL);
    // Seals that do no harm.
    control
        .set_region(memfd(size, good | SealFlags::SEAL))
        .unwrap();
}

fn a_memfd_open_for_reading() {
    let (control, size) = with_geometry();
    let memfd = sealed_memfd(size).unwrap();
    let link = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    refuses_region(&control, File::open(&link).unwrap(), Errno::BADF);
    refuses_region(
        &control,
        File::options().write(true).open(&link).unwrap(),
        Errno::BADF,
    );
    control
        .set_region(File::options().read(true).write(true).open(&link).unwrap())
        .unwrap();
}

/// Just the right size and the right seals; but its pages come from a pool of
/// their own, not from shmem.
fn a_hugetlb_memfd() {
    const HUGE: u32 = 2 << 20;
    let fits = |stopwatches: u32| Geometry {
        stopwatches,
        rings: 7,
        ring_slots: 4096,
        event_slots: 64,
    };
    let control = control();
    let geometry = (1..=4096)
        .map(fits)
        .find(|&geometry| control.set_geometry(geometry).unwrap() == HUGE)
        .expect("some geometry takes exactly one huge page");
    let pool = "/proc/sys/vm/nr_hugepages";
    fs::write(pool, "2").unwrap();
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let memfd = memfd_create("huge", flags).unwrap();
    ftruncate(&memfd, HUGE.into()).unwrap();
    fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW).unwrap();

    refuses_region(&control, &memfd, Errno::INVAL);
    control
        .set_region(sealed_memfd(HUGE.into()).unwrap())
        .unwrap();
    assert_eq!(control.this_vm().unwrap().unwrap().rings, geometry.rings);
    drop(memfd);
    fs::write(pool, "0").unwrap();
}

fn the_region_is_cleared_and_described() {
    let (control, size) = with_geometry();
    let mut memfd = File::from(sealed_memfd(size).unwrap());
    memfd.write_all(&vec![0xff; size as usize]).unwrap();
    control.set_region(&memfd).unwrap();
    let region = map_region(&memfd, size as u32).unwrap();
    let layout = Layout::new(stopwatch_protocol::geometry::Geometry {
        stopwatches: SMALL.stopwatches,
        rings: SMALL.rings,
        ring_slots: SMALL.ring_slots,
        event_slots: SMALL.event_slots,
    })
    .unwrap();
    let info = layout.info(control.features().unwrap().0 & !BY_POLICY);
    for offset in (0..size as u32).step_by(8) {
        let expected = info.get(offset as usize / 8).copied().unwrap_or(0);
        let word = region.load(offset);
        let seq = (0..SMALL.stopwatches).any(|watch| layout.record(watch) == Some(offset));
        if seq {
            assert_eq!(
                word & !0xffff_fffe,
                u64::from(STOPWATCH_RECORD_EXISTS) << 32,
                "a record's flags, and a count that is even, at {offset:#x}"
            );
        } else {
            assert_eq!(word, expected, "at {offset:#x}");
        }
    }
}

/// It is nobody's interest, and nobody's harm.
fn one_memfd_for_two_vms() {
    let (first, size) = with_geometry();
    let (second, _) = with_geometry();
    let memfd = sealed_memfd(size).unwrap();
    first.set_region(&memfd).unwrap();
    refuses_region(&second, &memfd, Errno::BUSY);
    // Nor through another file of it.
    let link = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    let again = File::options().read(true).write(true).open(link).unwrap();
    refuses_region(&second, &again, Errno::BUSY);
    // It is free when the VM is gone.
    drop(first);
    second.set_region(&again).unwrap();
}

/// Between the look at the seals and the pinning of the pages nobody seals the memfd. Here
/// somebody is about to, and waits for a page that is in use: SET_REGION waits for him.
fn seals_that_change_meanwhile() {
    // Sleeps in fcntl(2), system call 72.
    let waits = |thread: Pid| {
        let path = format!("/proc/self/task/{}/syscall", thread.as_raw_pid());
        fs::read_to_string(path).is_ok_and(|call| call.starts_with("72 "))
    };
    let met = (0..20).any(|_| {
        let (control, size) = with_geometry();
        let memfd = memfd(size, SealFlags::SHRINK | SealFlags::GROW);
        // What is on its way through a socket is a page of the memfd, not a copy.
        pwrite(&memfd, &[1; 4096], 0).unwrap();
        let (to, from) = UnixStream::pair().unwrap();
        assert_eq!(sendfile(&to, &memfd, None, 4096), Ok(4096));
        let (told, tid) = mpsc::channel();
        thread::scope(|scope| {
            let sealer = scope.spawn(|| {
                told.send(gettid()).unwrap();
                fcntl_add_seals(&memfd, SealFlags::WRITE)
            });
            let sealer_id = tid.recv().unwrap();
            while !waits(sealer_id) {
                if sealer.is_finished() {
                    return false;
                }
                thread::yield_now();
            }
            let region = scope.spawn(|| control.set_region(&memfd));
            thread::sleep(Duration::from_millis(20));
            let early = region.is_finished() && waits(sealer_id);
            // Now nobody uses the page.
            drop((to, from));
            let (sealed, pinned) = (sealer.join().unwrap(), region.join().unwrap());
            assert!(!early, "{pinned:?} while the memfd is being sealed");
            match (sealed, pinned) {
                (Ok(()), Err(error)) => {
                    assert_eq!(error.errno(), Some(Errno::INVAL));
                    true
                }
                // He has not waited long enough.
                (Err(errno), Ok(())) => {
                    assert_eq!(errno, Errno::BUSY, "pinned pages cannot be sealed");
                    false
                }
                (sealed, pinned) => panic!("seal: {sealed:?}, region: {pinned:?}"),
            }
        })
    });
    assert!(met, "the two never met");
}
