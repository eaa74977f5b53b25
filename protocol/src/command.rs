// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What can be asked of a device.

/// What is done with one stopwatch and takes nothing else: most of what there is
/// to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Go on counting.
    Start,
    /// Stand still.
    Pause,
    /// Note what it shows.
    Lap,
    /// Stop, go back to zero, forget laps and timeouts.
    Reset,
    /// Say what it shows.
    Read,
}

/// What a well-formed request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// What takes nothing else.
    Act(Act),
    /// Say what it shows, and reset it.
    ReadReset,
    /// In so many ns, and then each interval, if that is not 0.
    Timeout(u64, u64),
    /// When so many ns are shown, and then each interval, if that is not 0.
    TimeoutElapsed(u64, u64),
    /// Turn the timeout off.
    Disarm,
    /// Make a stopwatch; which one is in the slot.
    Create,
    /// Delete it.
    Delete,
    /// Say whose it is, and what others may do.
    SetMode {
        /// The user.
        uid: u32,
        /// `STOPWATCH_MODE_*`.
        mode: u32,
    },
    /// Bind a post ring to it.
    Bind(Binding),
    /// End the binding of a post ring.
    Unbind(Binding),
    /// Turn these features on, and all others off.
    SetFeatures(u64),
}

/// Which post ring is bound, or is not to be any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its number.
    pub ring: u32,
    /// Larger with each such request of the driver.
    pub ticket: u64,
}
