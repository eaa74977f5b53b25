// SPDX-License-Identifier: MIT OR Apache-2.0

//! Signals that interrupt a thread in its system calls.

use std::ffi::c_int;
use std::os::unix::thread::RawPthread;

use rustix::process::Signal;

/// One that nobody else sends.
const SIGNAL: c_int = Signal::USR1.as_raw();

unsafe extern "C" {
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn siginterrupt(number: c_int, interrupts: c_int) -> c_int;
    fn pthread_self() -> RawPthread;
    fn pthread_kill(thread: RawPthread, number: c_int) -> c_int;
}

extern "C" fn ignore(_number: c_int) {}

/// A thread that can be interrupted, and lives.
#[derive(Debug)]
pub struct Interruptible(RawPthread);

/// Runs `act` with the thread that this is called by; others may interrupt it meanwhile. A system
/// call of it then ends with `EINTR`.
pub fn interruptible<R>(act: impl FnOnce(&Interruptible) -> R) -> R {
    // SAFETY: the handler does nothing; it stays, so that a late signal is no harm.
    let status = unsafe {
        signal(SIGNAL, ignore);
        siginterrupt(SIGNAL, 1)
    };
    assert_eq!(status, 0, "system calls can be interrupted");
    // SAFETY: a thread can always ask who it is.
    act(&Interruptible(unsafe { pthread_self() }))
}

impl Interruptible {
    /// Interrupts it.
    pub fn interrupt(&self) {
        // SAFETY: the thread lives: it runs the function that has lent this.
        unsafe { pthread_kill(self.0, SIGNAL) };
    }
}
