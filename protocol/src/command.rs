// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What can be asked of a device, and the table of operations.

use super::clock::TimeBase;
use super::name::Name;
use super::status::Status;
use crate::uapi;

/// What is done with one stopwatch and takes nothing else: most of what there is
/// to do. Each has the number that the header gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Act {
    /// Go on counting.
    Start = uapi::STOPWATCH_OP_START as u16,
    /// Stand still.
    Pause = uapi::STOPWATCH_OP_PAUSE as u16,
    /// Note what it shows.
    Lap = uapi::STOPWATCH_OP_LAP as u16,
    /// Stop, go back to zero, forget laps and timeouts.
    Reset = uapi::STOPWATCH_OP_RESET as u16,
    /// Say what it shows.
    Read = uapi::STOPWATCH_OP_READ as u16,
}

impl Act {
    /// The act of that number, if there is one.
    #[inline(always)]
    pub fn from_wire(op: u32) -> Option<Self> {
        Some(match op {
            uapi::STOPWATCH_OP_START => Self::Start,
            uapi::STOPWATCH_OP_PAUSE => Self::Pause,
            uapi::STOPWATCH_OP_LAP => Self::Lap,
            uapi::STOPWATCH_OP_RESET => Self::Reset,
            uapi::STOPWATCH_OP_READ => Self::Read,
            _ => return None,
        })
    }

    /// The number that the header gives it.
    #[inline]
    pub fn to_wire(self) -> u16 {
        self as u16
    }

    /// Whether it may be posted.
    #[inline(always)]
    pub fn can_be_posted(self) -> bool {
        self != Self::Read
    }
}

/// What is asked for, without what is wrong in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// What takes nothing else.
    Act(Act),
    /// Say what it shows, and reset it.
    ReadReset,
    /// Arm its timeout, or disarm it.
    Timeout(Timeout),
    /// Make a stopwatch.
    Create(Identity),
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
    /// Do what is no stopwatch's work.
    Function {
        /// From `STOPWATCH_OP_FUNCTIONS` on.
        op: u16,
        /// As the function says.
        arg: u64,
    },
}

/// When a timeout expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeout {
    /// In so many ns, or when it shows so many.
    pub ns: u64,
    /// And then each so many ns, if that is not 0.
    pub interval_ns: u64,
    /// Whether `ns` is what it shows.
    pub at_elapsed: bool,
}

impl Timeout {
    /// Whether it disarms instead.
    pub fn disarms(&self) -> bool {
        self.ns == 0 && !self.at_elapsed
    }
}

/// What a stopwatch is made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its name, if it has one.
    pub name: Name,
    /// The guest's user who created it.
    pub uid: u32,
    /// `STOPWATCH_MODE_*`.
    pub mode: u32,
    /// What it counts.
    pub time_base: TimeBase,
}

pub(super) const MODES: u32 = uapi::STOPWATCH_MODE_READ | uapi::STOPWATCH_MODE_CONTROL;

/// Which post ring is bound, or is not to be any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its number.
    pub ring: u32,
    /// Larger with each such request of the driver.
    pub ticket: u64,
}

/// Which stopwatches an operation may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watches {
    /// Those that exist.
    Existing,
    /// Those that exist and were created.
    Created,
    /// None: the number is 0.
    Zero,
}

/// What a request must keep to, by its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The features that must be on.
    pub needs: u64,
    /// Which stopwatches it may name.
    pub watches: Watches,
    /// The flags that it may have.
    pub flags: u32,
    /// The largest argument.
    pub max_arg: u64,
    /// The largest interval.
    pub max_interval: u64,
    /// Whether it is for the host's programs, too.
    pub host: bool,
}

impl Rule {
    /// Of an operation that takes a stopwatch, and nothing else.
    const PLAIN: Self = Self {
        needs: 0,
        watches: Watches::Existing,
        flags: 0,
        max_arg: 0,
        max_interval: 0,
        host: true,
    };

    /// Of one that may be posted.
    const ACT: Self = Self {
        flags: uapi::STOPWATCH_REQUEST_POSTED,
        ..Self::PLAIN
    };
    const TIMEOUT: Self = Self {
        needs: uapi::STOPWATCH_F_TIMEOUT as u64,
        flags: uapi::STOPWATCH_TIMEOUT_ELAPSED,
        max_arg: uapi::STOPWATCH_MAX_TIMEOUT_NS,
        max_interval: uapi::STOPWATCH_MAX_TIMEOUT_NS,
        host: false,
        ..Self::PLAIN
    };
    const SET_FEATURES: Self = Self {
        watches: Watches::Zero,
        max_arg: u64::MAX,
        host: false,
        ..Self::PLAIN
    };
    const BIND: Self = Self {
        needs: uapi::STOPWATCH_F_POSTED as u64,
        max_arg: uapi::STOPWATCH_MAX_POST_RINGS as u64 - 1,
        max_interval: u64::MAX,
        host: false,
        ..Self::PLAIN
    };
    const UNBIND: Self = Self {
        watches: Watches::Zero,
        ..Self::BIND
    };
    pub(super) const CREATE: Self = Self {
        watches: Watches::Zero,
        flags: uapi::STOPWATCH_CREATE_SKIP_PAUSED,
        ..Self::PLAIN
    };
    const DELETE: Self = Self {
        watches: Watches::Created,
        ..Self::PLAIN
    };
    const SET_MODE: Self = Self {
        watches: Watches::Created,
        max_arg: u64::MAX,
        host: false,
        ..Self::PLAIN
    };
    /// Of all that is no stopwatch's work. The feature is with the function.
    const FUNCTION: Self = Self {
        watches: Watches::Zero,
        max_arg: u64::MAX,
        host: false,
        ..Self::PLAIN
    };

    /// Of an operation: the table of them.
    pub(super) fn of(op: u16) -> Option<&'static Self> {
        Some(match u32::from(op) {
            uapi::STOPWATCH_OP_READ | uapi::STOPWATCH_OP_READ_RESET => &Self::PLAIN,
            act if Act::from_wire(act).is_some() => &Self::ACT,
            uapi::STOPWATCH_OP_TIMEOUT => &Self::TIMEOUT,
            uapi::STOPWATCH_OP_SET_FEATURES => &Self::SET_FEATURES,
            uapi::STOPWATCH_OP_CREATE => &Self::CREATE,
            uapi::STOPWATCH_OP_DELETE => &Self::DELETE,
            uapi::STOPWATCH_OP_SET_MODE => &Self::SET_MODE,
            uapi::STOPWATCH_OP_BIND => &Self::BIND,
            uapi::STOPWATCH_OP_UNBIND => &Self::UNBIND,
            uapi::STOPWATCH_OP_FUNCTIONS.. => &Self::FUNCTION,
            _ => return None,
        })
    }
}

impl Command {
    /// The command of an operation with such an argument and interval, within its rule.
    /// CREATE takes more than that.
    ///
    /// # Errors
    ///
    /// What is wrong with the argument, or that there is no such operation.
    pub(super) fn new(op: u16, flags: u32, arg: u64, interval: u64) -> Result<Self, Status> {
        let binding = Binding {
            ring: arg as u32,
            ticket: interval,
        };
        Ok(match u32::from(op) {
            uapi::STOPWATCH_OP_READ_RESET => Self::ReadReset,
            uapi::STOPWATCH_OP_TIMEOUT => Self::Timeout(Timeout {
                ns: arg,
                interval_ns: interval,
                at_elapsed: flags & uapi::STOPWATCH_TIMEOUT_ELAPSED != 0,
            }),
            uapi::STOPWATCH_OP_DELETE => Self::Delete,
            uapi::STOPWATCH_OP_SET_MODE => {
                let (uid, mode) = (arg as u32, (arg >> 32) as u32);
                if mode & !MODES != 0 {
                    return Err(Status::BadArg);
                }
                Self::SetMode { uid, mode }
            }
            uapi::STOPWATCH_OP_SET_FEATURES => Self::SetFeatures(arg),
            uapi::STOPWATCH_OP_BIND => Self::Bind(binding),
            uapi::STOPWATCH_OP_UNBIND => Self::Unbind(binding),
            uapi::STOPWATCH_OP_FUNCTIONS.. => Self::Function { op, arg },
            act => Self::Act(Act::from_wire(act).ok_or(Status::BadOp)?),
        })
    }

    /// What a request for it says beside the operation: flags, argument, interval. Its
    /// [`Self::new`] again gives the command; CREATE takes more than that.
    pub(super) fn arguments(&self) -> (u32, u64, u64) {
        match *self {
            Self::Timeout(timeout) => {
                let flags = match timeout.at_elapsed {
                    true => uapi::STOPWATCH_TIMEOUT_ELAPSED,
                    false => 0,
                };
                (flags, timeout.ns, timeout.interval_ns)
            }
            Self::SetMode { uid, mode } => (0, u64::from(uid) | (u64::from(mode) << 32), 0),
            Self::Bind(binding) | Self::Unbind(binding) => {
                (0, u64::from(binding.ring), binding.ticket)
            }
            Self::SetFeatures(arg) | Self::Function { arg, .. } => (0, arg, 0),
            Self::Act(_) | Self::ReadReset | Self::Delete | Self::Create(_) => (0, 0, 0),
        }
    }

    /// The number of the operation.
    pub fn op(&self) -> u16 {
        let op = match self {
            Self::Act(act) => return act.to_wire(),
            Self::ReadReset => uapi::STOPWATCH_OP_READ_RESET,
            Self::Timeout(_) => uapi::STOPWATCH_OP_TIMEOUT,
            Self::Create(_) => uapi::STOPWATCH_OP_CREATE,
            Self::Delete => uapi::STOPWATCH_OP_DELETE,
            Self::SetMode { .. } => uapi::STOPWATCH_OP_SET_MODE,
            Self::Bind(_) => uapi::STOPWATCH_OP_BIND,
            Self::Unbind(_) => uapi::STOPWATCH_OP_UNBIND,
            Self::SetFeatures(_) => uapi::STOPWATCH_OP_SET_FEATURES,
            Self::Function { op, .. } => return *op,
        };
        op as u16
    }

    /// The command of an operation that takes a stopwatch and nothing else.
    pub fn plain(op: u16) -> Option<Self> {
        let rule = Rule::of(op)?;
        let plain = (
            rule.max_arg,
            rule.max_interval,
            rule.watches != Watches::Zero,
        );
        (plain == (0, 0, true)).then(|| Self::new(op, 0, 0, 0).ok())?
    }
}

impl From<Act> for Command {
    fn from(act: Act) -> Self {
        Self::Act(act)
    }
}

impl From<Timeout> for Command {
    fn from(timeout: Timeout) -> Self {
        Self::Timeout(timeout)
    }
}
