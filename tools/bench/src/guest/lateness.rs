// SPDX-License-Identifier: MIT OR Apache-2.0

//! How late a program sees the end of a timer: the guest's own timerfd beside a
//! timeout of the device, in turns.
//!
//! Both are counted from the deadline itself to the return of read(). The
//! device's deadline is of the host's clock, so the difference between the two
//! clocks has to be known: each call is answered between a reading of the
//! guest's clock before and one after, and so says of the difference that it lies
//! in an interval. It lies in all of them.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use stopwatch::guest::{Device, DEVICE};
use stopwatch::{Act, Timeout};

use super::system::clock_ns;
use crate::results::{self, Side, Timing};

/// The guest's own timer.
pub const TIMERFD: &str = "timeout lateness, guest timerfd";
/// The device's.
pub const TIER4: &str = "tier 4: timeout lateness";

/// Measures both that often, with timeouts of 2 to 6 ms.
///
/// # Errors
///
/// No device, or no timer.
pub fn lateness(count: u32) -> Result<results::Lateness> {
    let device = Device::open(DEVICE)?;
    let mut offset = Offset::default();
    for _ in 0..1000 {
        offset.learn(&device)?;
    }

    let mut timer = Timer::new()?;
    let (mut own, mut ours) = (Vec::new(), Vec::new());
    for index in 0..count {
        // Not in step with the guest's tick.
        let after = 2_000_000 + u64::from(index) * 7919 % 4000 * 1000;

        let deadline = clock_ns(libc::CLOCK_MONOTONIC)? + after;
        timer.wait_until(deadline)?;
        own.push((clock_ns(libc::CLOCK_MONOTONIC)? - deadline) as f64);

        let timeout = Timeout {
            ns: after,
            ..Timeout::default()
        };
        let armed = device.command(0, timeout)?;
        let event = device.next_event(None)?.context("no event")?;
        let seen = clock_ns(libc::CLOCK_MONOTONIC)? as i64;
        ensure!(
            armed.deadline_ns == event.deadline_ns,
            "an event for {} ns; armed was {}",
            event.deadline_ns,
            armed.deadline_ns
        );
        ours.push((seen - event.deadline_ns as i64 - offset.middle()) as f64);
        // The clocks drift apart; what was learned does not hold for ever.
        if index % 16 == 0 {
            offset = Offset::default();
            for _ in 0..100 {
                offset.learn(&device)?;
            }
        }
    }
    Ok(results::Lateness {
        timings: vec![
            Timing::of(TIMERFD, Side::GuestUser, 1, own),
            Timing::of(TIER4, Side::GuestUser, 1, ours),
        ],
        clock_error_ns: offset.error() as u64,
    })
}

/// The guest's clock minus VM time: between these two.
struct Offset {
    least: i64,
    most: i64,
}

impl Default for Offset {
    fn default() -> Self {
        Self {
            least: i64::MIN,
            most: i64::MAX,
        }
    }
}

impl Offset {
    fn learn(&mut self, device: &Device) -> Result<()> {
        let before = clock_ns(libc::CLOCK_MONOTONIC)? as i64;
        let host = device.command(0, Act::Read)?.time_ns as i64;
        let after = clock_ns(libc::CLOCK_MONOTONIC)? as i64;
        self.least = self.least.max(before - host);
        self.most = self.most.min(after - host);
        Ok(())
    }

    fn middle(&self) -> i64 {
        self.least + (self.most - self.least) / 2
    }

    fn error(&self) -> i64 {
        (self.most - self.least) / 2
    }
}

struct Timer(File);

impl Timer {
    fn new() -> Result<Self> {
        // SAFETY: touches no memory of ours.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
        ensure!(
            fd >= 0,
            "timerfd_create: {}",
            std::io::Error::last_os_error()
        );
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    fn wait_until(&mut self, deadline: u64) -> Result<()> {
        let setting = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: (deadline / 1_000_000_000) as libc::time_t,
                tv_nsec: (deadline % 1_000_000_000) as libc::c_long,
            },
        };
        // SAFETY: the setting is one; the old one is not asked for.
        let status = unsafe {
            libc::timerfd_settime(
                self.0.as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &setting,
                std::ptr::null_mut(),
            )
        };
        ensure!(
            status == 0,
            "timerfd_settime: {}",
            std::io::Error::last_os_error()
        );
        let mut count = [0; 8];
        self.0.read_exact(&mut count).context("read the timerfd")
    }
}
