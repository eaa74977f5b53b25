// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What slots say: requests, replies, events.

use super::clock::ClockId;
use super::clock::TimeBase;
use super::command::Act;
use super::command::Command;
use super::command::Identity;
use super::command::Rule;
use super::command::MODES;
use super::name::Name;
use super::reading::Reading;
use super::ring::SlotWords;
pub use super::status::Status;
use super::words::bytes;
use super::words::field;
use crate::uapi;

/// What a slot asks for, as far as the slot alone says whether it is good.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The operation.
    pub op: u16,
    /// What such a request must keep to.
    pub rule: &'static Rule,
    /// Number of the stopwatch.
    pub watch: u32,
    /// Which of those that had the number; zero is whichever has it.
    pub generation: u32,
    /// Whether it is posted, which its rule allows.
    pub posted: bool,
    /// What is to be done, or what of flags, name and arguments is wrong.
    pub command: Result<Command, Status>,
}

impl Asked {
    /// Decodes a slot.
    ///
    /// # Errors
    ///
    /// There is no such operation, or the request was taken back.
    pub fn decode(words: &SlotWords) -> Result<Self, Status> {
        let op = field!(stopwatch_request.op).get(words) as u16;
        if u32::from(op) == uapi::STOPWATCH_OP_NOP {
            return Err(Status::Cancelled);
        }
        let rule = Rule::of(op).ok_or(Status::BadOp)?;
        let flags = field!(stopwatch_request.flags).get32(words);
        let known = flags & !rule.flags == 0;
        let creates = creates(words);
        let generation = if creates {
            0
        } else {
            field!(stopwatch_request.generation).get32(words)
        };
        let posted = flags & rule.flags & uapi::STOPWATCH_REQUEST_POSTED != 0;
        let command = if !known || field!(stopwatch_request.status).get32(words) != 0 {
            Err(Status::BadFlags)
        } else if creates {
            Creation::decode(words).and_then(|creation| Ok(Command::Create(creation.try_into()?)))
        } else if !posted && field!(stopwatch_request.stamp_ns).get(words) != 0
            || reserved(words) != 0
        {
            Err(Status::BadFlags)
        } else {
            let arg = field!(stopwatch_request.arg).get(words);
            let interval = field!(stopwatch_request.interval).get(words);
            if arg > rule.max_arg || interval > rule.max_interval {
                Err(Status::BadArg)
            } else {
                Command::new(op, flags, arg, interval)
            }
        };
        Ok(Self {
            op,
            rule,
            watch: field!(stopwatch_request.watch).get32(words),
            generation,
            posted,
            command,
        })
    }

    /// What a program of the host asks for.
    ///
    /// # Errors
    ///
    /// There is no such operation.
    pub fn by_host(watch: u32, command: Command) -> Result<Self, Status> {
        let op = command.op();
        Ok(Self {
            op,
            rule: Rule::of(op).ok_or(Status::BadOp)?,
            watch,
            generation: 0,
            posted: false,
            command: Ok(command),
        })
    }

    /// Whether that is no stopwatch's work.
    pub fn is_function(&self) -> bool {
        u32::from(self.op) >= uapi::STOPWATCH_OP_FUNCTIONS
    }
}

/// [`Asked::decode`] in short, for a guest's [`Act`]: it is told of most slots that ask
/// for one, if the stopwatch exists, and of none in which anything is wrong. Number and
/// generation of the stopwatch come with it.
#[inline(always)]
pub fn act(words: &SlotWords, features: u64) -> Option<(u32, u32, Act)> {
    const _: () =
        assert!(field!(stopwatch_request.flags).is_beside(field!(stopwatch_request.status)));
    let act = Act::from_wire(field!(stopwatch_request.op).get32(words))?;
    let mut zero = field!(stopwatch_request.arg).get(words)
        | field!(stopwatch_request.interval).get(words)
        | reserved(words);
    let flags_and_status = field!(stopwatch_request.flags).word(words);
    if flags_and_status != u64::from(uapi::STOPWATCH_REQUEST_POSTED) {
        zero |= flags_and_status | field!(stopwatch_request.stamp_ns).get(words);
    } else if features & u64::from(uapi::STOPWATCH_F_POSTED) == 0 || !act.can_be_posted() {
        return None;
    }
    let watch = field!(stopwatch_request.watch).get32(words);
    let generation = field!(stopwatch_request.generation).get32(words);
    (zero == 0).then_some((watch, generation, act))
}

/// Zero, if all are that have to be in a request that is not for a new stopwatch.
#[inline(always)]
fn reserved(words: &SlotWords) -> u64 {
    const _: () = assert!(core::mem::offset_of!(uapi::stopwatch_request, reserved1) == 6 * 8);
    let [_, _, _, _, _, _, first, second] = *words;
    field!(stopwatch_request.reserved).get(words) | first | second
}

/// Whether a slot asks for a new stopwatch.
#[inline]
pub fn creates(words: &SlotWords) -> bool {
    field!(stopwatch_request.op).get32(words) == uapi::STOPWATCH_OP_CREATE
}

/// The stamp of what was not posted: later than any time at which it is served.
pub const NOT_POSTED: u64 = u64::MAX;

/// The VM time that a slot gives itself, below [`NOT_POSTED`] if it was posted.
#[inline]
pub fn stamp(words: &SlotWords) -> u64 {
    if field!(stopwatch_request.flags).get32(words) & uapi::STOPWATCH_REQUEST_POSTED == 0 {
        return NOT_POSTED;
    }
    field!(stopwatch_request.stamp_ns)
        .get(words)
        .min(NOT_POSTED - 1)
}

/// The words of a request, without owner. Made from a [`Request`], a [`Stamped`]
/// or a [`Creation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message(pub SlotWords);

impl Message {
    #[inline]
    pub fn words(&self) -> &SlotWords {
        &self.0
    }
}

/// A request, as the guest or a program of the host makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `STOPWATCH_OP_*`; for `STOPWATCH_OP_CREATE` there is [`Creation`].
    pub op: u16,
    /// Number of the stopwatch.
    pub watch: u32,
    /// As the operation says, else zero.
    pub flags: u32,
    /// As the operation says, else zero.
    pub arg: u64,
    /// ns, for `STOPWATCH_OP_TIMEOUT`; the ticket of `STOPWATCH_OP_BIND` and
    /// `_UNBIND`; else zero.
    pub interval: u64,
    /// Which of those that had the number; zero is whichever has it.
    pub generation: u32,
}

impl Request {
    /// The request for a command; that for a new stopwatch is a [`Creation`].
    #[inline]
    pub fn new(watch: u32, command: impl Into<Command>) -> Self {
        let command = command.into();
        let (flags, arg, interval) = command.arguments();
        Self {
            op: command.op(),
            watch,
            flags,
            arg,
            interval,
            generation: 0,
        }
    }

    /// It is for the stopwatch of that generation alone.
    #[inline]
    pub fn for_generation(self, generation: u32) -> Self {
        Self { generation, ..self }
    }
}

impl From<Request> for Message {
    #[inline]
    fn from(request: Request) -> Self {
        let mut words = SlotWords::default();
        field!(stopwatch_request.op).set(&mut words, request.op);
        field!(stopwatch_request.watch).set(&mut words, request.watch);
        field!(stopwatch_request.flags).set(&mut words, request.flags);
        field!(stopwatch_request.arg).set(&mut words, request.arg);
        field!(stopwatch_request.interval).set(&mut words, request.interval);
        field!(stopwatch_request.generation).set(&mut words, request.generation);
        Self(words)
    }
}

/// A request that is posted: carried out as of its stamp, without a doorbell of
/// its own. Needs `STOPWATCH_F_POSTED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamped {
    /// `STOPWATCH_OP_START`, `_PAUSE`, `_LAP` or `_RESET`.
    pub op: u16,
    /// Number of the stopwatch.
    pub watch: u32,
    /// As in a [`Request`].
    pub generation: u32,
    /// VM time of the act.
    pub stamp_ns: u64,
}

impl From<Stamped> for Message {
    #[inline]
    fn from(stamped: Stamped) -> Self {
        let mut words = SlotWords::default();
        field!(stopwatch_request.op).set(&mut words, stamped.op);
        field!(stopwatch_request.watch).set(&mut words, stamped.watch);
        field!(stopwatch_request.flags).set(&mut words, uapi::STOPWATCH_REQUEST_POSTED);
        field!(stopwatch_request.stamp_ns).set(&mut words, stamped.stamp_ns);
        field!(stopwatch_request.generation).set(&mut words, stamped.generation);
        Self(words)
    }
}

/// A request for a new stopwatch: `STOPWATCH_OP_CREATE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Creation {
    /// Its name, if it shall have one.
    pub name: Name,
    /// `STOPWATCH_CREATE_*`.
    pub flags: u32,
    /// The guest's user whose it will be.
    pub uid: u32,
    /// `STOPWATCH_MODE_*`.
    pub mode: u32,
    /// `STOPWATCH_CLOCK_*`.
    pub clock: u32,
}

impl From<Creation> for Message {
    fn from(creation: Creation) -> Self {
        let mut words = SlotWords::default();
        field!(stopwatch_create.op).set(&mut words, uapi::STOPWATCH_OP_CREATE);
        field!(stopwatch_create.flags).set(&mut words, creation.flags);
        bytes!(stopwatch_create.name).set(&mut words, creation.name.bytes());
        field!(stopwatch_create.uid).set(&mut words, creation.uid);
        field!(stopwatch_create.mode).set(&mut words, creation.mode);
        field!(stopwatch_create.clock).set(&mut words, creation.clock);
        Self(words)
    }
}

impl Creation {
    /// What a slot asks for.
    fn decode(words: &SlotWords) -> Result<Self, Status> {
        if field!(stopwatch_create.reserved).get(words) != 0 {
            return Err(Status::BadFlags);
        }
        Ok(Self {
            name: Name::new(bytes!(stopwatch_create.name).get(words))
                .map_err(|_| Status::BadName)?,
            flags: field!(stopwatch_create.flags).get32(words),
            uid: field!(stopwatch_create.uid).get32(words),
            mode: field!(stopwatch_create.mode).get32(words),
            clock: field!(stopwatch_create.clock).get32(words),
        })
    }
}

impl TryFrom<Creation> for Identity {
    type Error = Status;

    fn try_from(creation: Creation) -> Result<Self, Status> {
        if creation.flags & !Rule::CREATE.flags != 0 {
            return Err(Status::BadFlags);
        }
        if creation.mode & !MODES != 0 {
            return Err(Status::BadArg);
        }
        let clock = ClockId::from_wire(creation.clock).ok_or(Status::BadArg)?;
        let skip_paused = creation.flags & uapi::STOPWATCH_CREATE_SKIP_PAUSED != 0;
        Ok(Self {
            name: creation.name,
            uid: creation.uid,
            mode: creation.mode,
            time_base: TimeBase::new(clock, skip_paused),
        })
    }
}

/// What the host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status; its number if it is an unknown one.
    pub status: Result<Status, u32>,
    /// Number of the stopwatch, as in the request; of the new one after
    /// `STOPWATCH_OP_CREATE`, or of the one that has the name.
    pub watch: u32,
    /// That of the stopwatch whose number it is, after `STOPWATCH_OP_CREATE`; else zero.
    pub generation: u32,
    /// The stopwatch after the operation; all zero if it was refused.
    pub reading: Reading,
}

impl Reply {
    /// What is answered to a request in a slot that is refused.
    pub fn refusal(request: &SlotWords, status: Status) -> Self {
        Self::refused(field!(stopwatch_request.watch).get32(request), status)
    }

    /// What is answered where a request for such a stopwatch is refused.
    pub fn refused(watch: u32, status: Status) -> Self {
        Self {
            status: Ok(status),
            watch,
            generation: 0,
            reading: Reading::default(),
        }
    }

    /// Whether the request broke the rules.
    pub fn is_bad(&self) -> bool {
        self.status.is_ok_and(Status::is_bad)
    }

    /// The words of a completed slot. Operation and flags stay as they were in
    /// the request.
    pub fn encode(&self, request: &SlotWords) -> SlotWords {
        let status = match self.status {
            Ok(status) => status.to_wire(),
            Err(number) => number,
        };
        let mut words = encode_reply(request, status, self.watch, &self.reading);
        field!(stopwatch_reply.generation).set(&mut words, self.generation);
        words
    }

    /// The reply in a completed slot.
    #[inline]
    pub fn decode(words: &SlotWords) -> Self {
        Self {
            status: Status::from_wire(field!(stopwatch_reply.status).get32(words)),
            watch: field!(stopwatch_reply.watch).get32(words),
            generation: field!(stopwatch_reply.generation).get32(words),
            reading: Reading {
                elapsed_ns: field!(stopwatch_reply.elapsed_ns).get(words),
                time_ns: field!(stopwatch_reply.time_ns).get(words),
                lap_ns: field!(stopwatch_reply.lap_ns).get(words),
                deadline_ns: field!(stopwatch_reply.deadline_ns).get(words),
                running: field!(stopwatch_reply.state).get32(words) == uapi::STOPWATCH_RUNNING,
                laps: field!(stopwatch_reply.laps).get32(words),
                timeouts: field!(stopwatch_reply.timeouts).get32(words),
            },
        }
    }
}

/// The words of a completed slot, without owner and generation.
#[inline]
pub fn encode_reply(request: &SlotWords, status: u32, watch: u32, reading: &Reading) -> SlotWords {
    let mut words = SlotWords::default();
    let op = field!(stopwatch_request.op).get(request);
    let flags = field!(stopwatch_request.flags).get(request);
    field!(stopwatch_reply.op).set(&mut words, op);
    field!(stopwatch_reply.watch).set(&mut words, watch);
    field!(stopwatch_reply.flags).set(&mut words, flags);
    field!(stopwatch_reply.status).set(&mut words, status);
    field!(stopwatch_reply.elapsed_ns).set(&mut words, reading.elapsed_ns);
    field!(stopwatch_reply.time_ns).set(&mut words, reading.time_ns);
    field!(stopwatch_reply.lap_ns).set(&mut words, reading.lap_ns);
    field!(stopwatch_reply.deadline_ns).set(&mut words, reading.deadline_ns);
    field!(stopwatch_reply.state).set(&mut words, reading.state());
    field!(stopwatch_reply.laps).set(&mut words, reading.laps);
    field!(stopwatch_reply.timeouts).set(&mut words, reading.timeouts);
    words
}

/// What the host tells by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `STOPWATCH_EVENT_*`.
    pub kind: u16,
    /// Number of the stopwatch.
    pub watch: u32,
    /// Of this event; lost ones are counted, too. Goes on over a reset.
    pub sequence: u64,
    /// Of the stopwatch's own time, for which it was armed.
    pub deadline_ns: u64,
    /// Of its own time, at which the host's timer ran.
    pub time_ns: u64,
    /// Of that stopwatch, this one included.
    pub timeouts: u32,
    /// How many timeouts this tells of, from 1.
    pub count: u32,
    /// Which of those that had the number.
    pub generation: u32,
}

impl Event {
    /// The slot's words, without owner.
    pub fn encode(&self) -> SlotWords {
        let mut words = SlotWords::default();
        field!(stopwatch_event.type_).set(&mut words, self.kind);
        field!(stopwatch_event.watch).set(&mut words, self.watch);
        field!(stopwatch_event.sequence).set(&mut words, self.sequence);
        field!(stopwatch_event.deadline_ns).set(&mut words, self.deadline_ns);
        field!(stopwatch_event.time_ns).set(&mut words, self.time_ns);
        field!(stopwatch_event.timeouts).set(&mut words, self.timeouts);
        field!(stopwatch_event.count).set(&mut words, self.count);
        field!(stopwatch_event.generation).set(&mut words, self.generation);
        words
    }

    /// The event in a slot.
    pub fn decode(words: &SlotWords) -> Self {
        Self {
            kind: field!(stopwatch_event.type_).get(words) as u16,
            watch: field!(stopwatch_event.watch).get32(words),
            sequence: field!(stopwatch_event.sequence).get(words),
            deadline_ns: field!(stopwatch_event.deadline_ns).get(words),
            time_ns: field!(stopwatch_event.time_ns).get(words),
            timeouts: field!(stopwatch_event.timeouts).get32(words),
            count: field!(stopwatch_event.count).get32(words),
            generation: field!(stopwatch_event.generation).get32(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::command::Binding;
    use super::super::command::Timeout;
    use super::*;

    #[test]
    fn replies_and_events_come_back_as_they_went() {
        let reading = Reading {
            elapsed_ns: 1,
            time_ns: 2,
            lap_ns: 3,
            deadline_ns: 4,
            running: true,
            laps: 5,
            timeouts: 6,
        };
        let reply = Reply {
            status: Ok(Status::Stopped),
            watch: 8,
            generation: 9,
            reading,
        };
        let Message(request) = Message::from(Request {
            op: 3,
            watch: 2,
            flags: 7,
            arg: 9,
            ..Request::default()
        });
        let words = reply.encode(&request);
        assert_eq!(Reply::decode(&words), reply);
        assert_eq!(field!(stopwatch_reply.op).get(&words), 3);
        assert_eq!(field!(stopwatch_reply.flags).get(&words), 7);

        let event = Event {
            kind: 1,
            watch: 2,
            sequence: 3,
            deadline_ns: 4,
            time_ns: 5,
            timeouts: 6,
            count: 7,
            generation: 8,
        };
        assert_eq!(Event::decode(&event.encode()), event);
    }

    #[test]
    fn a_request_for_a_command_is_decoded_to_it() {
        let binding = Binding {
            ring: 31,
            ticket: u64::MAX,
        };
        let timeout = |at_elapsed| Timeout {
            ns: 90,
            interval_ns: 7,
            at_elapsed,
        };
        let acts = [Act::Start, Act::Pause, Act::Lap, Act::Reset, Act::Read];
        let others = [
            Command::ReadReset,
            timeout(true).into(),
            timeout(false).into(),
            Command::Delete,
            Command::SetMode {
                uid: u32::MAX,
                mode: MODES,
            },
            Command::Bind(binding),
            Command::Unbind(binding),
            Command::SetFeatures(u64::MAX),
            Command::Function {
                op: uapi::STOPWATCH_OP_FUNCTIONS as u16,
                arg: 3,
            },
        ];
        for command in acts.map(Command::from).into_iter().chain(others) {
            let asked = Asked::decode(Message::from(Request::new(70, command)).words()).unwrap();
            assert_eq!((asked.watch, asked.command), (70, Ok(command)));
        }
    }

    #[test]
    fn statuses_keep_their_numbers() {
        for number in 0..64 {
            match Status::from_wire(number) {
                Ok(status) => {
                    assert_eq!(status.to_wire(), number);
                    assert_eq!(status.is_refused(), number >= uapi::STOPWATCH_S_REFUSED);
                }
                Err(unknown) => assert_eq!(unknown, number),
            }
        }
    }
}
