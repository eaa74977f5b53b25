// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! What slots say: requests and the judgement of them, replies, events.

use super::ring::SlotWords;
use super::stopwatch::Reading;
use super::words::field;
use crate::uapi;

/// Status of a completed request: `STOPWATCH_S_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// It was in that state; no change.
    Already,
    /// Needs a running stopwatch; no change.
    Stopped,
    /// Unknown operation, or its feature is off.
    BadOp,
    /// No stopwatch has that number.
    BadWatch,
    /// Unknown flag, or a reserved field is not zero.
    BadFlags,
    /// The argument is out of range.
    BadArg,
    /// The owner field broke the rules.
    BadOwner,
}

impl Status {
    /// The number that the header gives it.
    pub fn to_wire(self) -> u32 {
        match self {
            Self::Ok => uapi::STOPWATCH_S_OK,
            Self::Already => uapi::STOPWATCH_S_ALREADY,
            Self::Stopped => uapi::STOPWATCH_S_STOPPED,
            Self::BadOp => uapi::STOPWATCH_S_BAD_OP,
            Self::BadWatch => uapi::STOPWATCH_S_BAD_WATCH,
            Self::BadFlags => uapi::STOPWATCH_S_BAD_FLAGS,
            Self::BadArg => uapi::STOPWATCH_S_BAD_ARG,
            Self::BadOwner => uapi::STOPWATCH_S_BAD_OWNER,
        }
    }

    /// The status of that number; the number itself if there is none.
    pub fn from_wire(status: u32) -> Result<Self, u32> {
        Ok(match status {
            uapi::STOPWATCH_S_OK => Self::Ok,
            uapi::STOPWATCH_S_ALREADY => Self::Already,
            uapi::STOPWATCH_S_STOPPED => Self::Stopped,
            uapi::STOPWATCH_S_BAD_OP => Self::BadOp,
            uapi::STOPWATCH_S_BAD_WATCH => Self::BadWatch,
            uapi::STOPWATCH_S_BAD_FLAGS => Self::BadFlags,
            uapi::STOPWATCH_S_BAD_ARG => Self::BadArg,
            uapi::STOPWATCH_S_BAD_OWNER => Self::BadOwner,
            unknown => return Err(unknown),
        })
    }
}

/// What a well-formed request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Start,
    Pause,
    Lap,
    Reset,
    Read,
    /// In so many ns; 0 disarms.
    Timeout(u64),
    SetFeatures(u64),
}

/// What a device takes, for the judgement of requests.
pub(super) struct Terms {
    pub(super) stopwatches: u32,
    pub(super) offered: u64,
    pub(super) features: u64,
}

/// What a request must keep to, by its operation.
struct Rule {
    /// The features that must be on.
    needs: u64,
    /// How many watches it may name.
    watches: u32,
    /// Whether the argument is within range.
    arg_fits: bool,
    operation: Operation,
}

/// A request, as the guest writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `STOPWATCH_OP_*`.
    pub op: u16,
    /// Number of the stopwatch.
    pub watch: u32,
    /// As the operation says, else zero.
    pub arg: u64,
}

impl Request {
    /// The slot's words, without owner.
    pub(super) fn encode(self) -> SlotWords {
        let mut words = SlotWords::default();
        field!(stopwatch_request.op).set(&mut words, self.op);
        field!(stopwatch_request.watch).set(&mut words, self.watch);
        field!(stopwatch_request.arg).set(&mut words, self.arg);
        words
    }

    /// The request in a slot, and whether flags and reserved fields are zero.
    fn decode(words: &SlotWords) -> (Self, bool) {
        let request = Self {
            op: field!(stopwatch_request.op).get(words) as u16,
            watch: field!(stopwatch_request.watch).get32(words),
            arg: field!(stopwatch_request.arg).get(words),
        };
        // All that is not one of the above has to be zero.
        let mut rest = *words;
        field!(stopwatch_request.owner).set(&mut rest, 0u64);
        let plain = rest == request.encode();
        (request, plain)
    }

    /// Says what a slot asks for, or what is wrong with it. Where much is
    /// wrong, the first of operation, watch, flags and argument is named.
    pub(super) fn judge(words: &SlotWords, terms: &Terms) -> Result<(u32, Operation), Status> {
        let (request, plain) = Self::decode(words);
        let rule = request.rule(terms).ok_or(Status::BadOp)?;
        if rule.needs & !terms.features != 0 {
            return Err(Status::BadOp);
        }
        if request.watch >= rule.watches {
            return Err(Status::BadWatch);
        }
        if !plain {
            return Err(Status::BadFlags);
        }
        if !rule.arg_fits {
            return Err(Status::BadArg);
        }
        Ok((request.watch, rule.operation))
    }

    /// The table of operations.
    fn rule(self, terms: &Terms) -> Option<Rule> {
        const F_TIMEOUT: u64 = uapi::STOPWATCH_F_TIMEOUT as u64;

        let arg = self.arg;
        let plain = |operation| Rule {
            needs: 0,
            watches: terms.stopwatches,
            arg_fits: arg == 0,
            operation,
        };
        Some(match u32::from(self.op) {
            uapi::STOPWATCH_OP_START => plain(Operation::Start),
            uapi::STOPWATCH_OP_PAUSE => plain(Operation::Pause),
            uapi::STOPWATCH_OP_LAP => plain(Operation::Lap),
            uapi::STOPWATCH_OP_RESET => plain(Operation::Reset),
            uapi::STOPWATCH_OP_READ => plain(Operation::Read),
            uapi::STOPWATCH_OP_TIMEOUT => Rule {
                needs: F_TIMEOUT,
                arg_fits: arg <= uapi::STOPWATCH_MAX_TIMEOUT_NS,
                ..plain(Operation::Timeout(arg))
            },
            uapi::STOPWATCH_OP_SET_FEATURES => Rule {
                watches: 1,
                arg_fits: arg & !terms.offered == 0,
                ..plain(Operation::SetFeatures(arg))
            },
            _ => return None,
        })
    }
}

/// What the host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status; its number if it is an unknown one.
    pub status: Result<Status, u32>,
    /// The stopwatch after the operation; all zero if the status is a bad one.
    pub reading: Reading,
}

impl Reply {
    /// The words of a completed slot. Operation, watch and flags stay as they
    /// were in the request.
    pub(super) fn encode(request: &SlotWords, status: Status, reading: &Reading) -> SlotWords {
        let mut words = SlotWords::default();
        let op = field!(stopwatch_request.op).get(request);
        let watch = field!(stopwatch_request.watch).get(request);
        let flags = field!(stopwatch_request.flags).get(request);
        field!(stopwatch_reply.op).set(&mut words, op);
        field!(stopwatch_reply.watch).set(&mut words, watch);
        field!(stopwatch_reply.flags).set(&mut words, flags);
        field!(stopwatch_reply.status).set(&mut words, status.to_wire());
        field!(stopwatch_reply.elapsed_ns).set(&mut words, reading.elapsed_ns);
        field!(stopwatch_reply.time_ns).set(&mut words, reading.time_ns);
        field!(stopwatch_reply.lap_ns).set(&mut words, reading.lap_ns);
        field!(stopwatch_reply.deadline_ns).set(&mut words, reading.deadline_ns);
        field!(stopwatch_reply.state).set(&mut words, reading.state());
        field!(stopwatch_reply.laps).set(&mut words, reading.laps);
        field!(stopwatch_reply.timeouts).set(&mut words, reading.timeouts);
        words
    }

    /// The reply in a completed slot.
    pub(super) fn decode(words: &SlotWords) -> Self {
        Self {
            status: Status::from_wire(field!(stopwatch_reply.status).get32(words)),
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

/// What the host tells by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `STOPWATCH_EVENT_*`.
    pub kind: u16,
    /// Number of the stopwatch.
    pub watch: u32,
    /// Of this event; lost ones are counted, too. Goes on over a reset.
    pub sequence: u64,
    /// VM time for which it was armed.
    pub deadline_ns: u64,
    /// VM time at which the host's timer ran.
    pub time_ns: u64,
    /// Of that stopwatch, this one included.
    pub timeouts: u32,
}

impl Event {
    /// The slot's words, without owner.
    pub(super) fn encode(&self) -> SlotWords {
        let mut words = SlotWords::default();
        field!(stopwatch_event.type_).set(&mut words, self.kind);
        field!(stopwatch_event.watch).set(&mut words, self.watch);
        field!(stopwatch_event.sequence).set(&mut words, self.sequence);
        field!(stopwatch_event.deadline_ns).set(&mut words, self.deadline_ns);
        field!(stopwatch_event.time_ns).set(&mut words, self.time_ns);
        field!(stopwatch_event.timeouts).set(&mut words, self.timeouts);
        words
    }

    /// The event in a slot.
    pub(super) fn decode(words: &SlotWords) -> Self {
        Self {
            kind: field!(stopwatch_event.type_).get(words) as u16,
            watch: field!(stopwatch_event.watch).get32(words),
            sequence: field!(stopwatch_event.sequence).get(words),
            deadline_ns: field!(stopwatch_event.deadline_ns).get(words),
            time_ns: field!(stopwatch_event.time_ns).get(words),
            timeouts: field!(stopwatch_event.timeouts).get32(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::words::Field;

    const TERMS: Terms = Terms {
        stopwatches: 4,
        offered: 1,
        features: 1,
    };

    fn words(op: u32, watch: u32, arg: u64) -> SlotWords {
        Request {
            op: op as u16,
            watch,
            arg,
        }
        .encode()
    }

    fn with(mut words: SlotWords, field: Field, value: u64) -> SlotWords {
        field.set(&mut words, value);
        words
    }

    #[test]
    fn good_requests_are_taken() {
        for (op, arg, operation) in [
            (uapi::STOPWATCH_OP_START, 0, Operation::Start),
            (uapi::STOPWATCH_OP_PAUSE, 0, Operation::Pause),
            (uapi::STOPWATCH_OP_LAP, 0, Operation::Lap),
            (uapi::STOPWATCH_OP_RESET, 0, Operation::Reset),
            (uapi::STOPWATCH_OP_READ, 0, Operation::Read),
            (uapi::STOPWATCH_OP_TIMEOUT, 0, Operation::Timeout(0)),
            (
                uapi::STOPWATCH_OP_TIMEOUT,
                uapi::STOPWATCH_MAX_TIMEOUT_NS,
                Operation::Timeout(uapi::STOPWATCH_MAX_TIMEOUT_NS),
            ),
        ] {
            // Owner is not the request's business.
            let words = with(words(op, 3, arg), field!(stopwatch_request.owner), 1);
            assert_eq!(Request::judge(&words, &TERMS), Ok((3, operation)));
        }
        let words = words(uapi::STOPWATCH_OP_SET_FEATURES, 0, 1);
        assert_eq!(
            Request::judge(&words, &TERMS),
            Ok((0, Operation::SetFeatures(1)))
        );
    }

    #[test]
    fn bad_requests_are_told_why() {
        let judge = |words| Request::judge(&words, &TERMS).unwrap_err();
        let start = words(uapi::STOPWATCH_OP_START, 0, 0);

        for op in [0, 8, 0xffff] {
            assert_eq!(judge(words(op, 0, 0)), Status::BadOp);
        }
        for watch in [4, u32::MAX] {
            assert_eq!(judge(words(1, watch, 0)), Status::BadWatch);
        }
        assert_eq!(judge(words(7, 1, 1)), Status::BadWatch);
        for (field, value) in [
            (field!(stopwatch_request.flags), 1),
            (field!(stopwatch_request.status), 1 << 31),
            (Field::new(24, 8), 1),
            (Field::new(56, 8), 1 << 63),
        ] {
            assert_eq!(judge(with(start, field, value)), Status::BadFlags);
        }
        for op in 1..=5 {
            assert_eq!(judge(words(op, 0, 1)), Status::BadArg);
        }
        let too_long = uapi::STOPWATCH_MAX_TIMEOUT_NS + 1;
        assert_eq!(judge(words(6, 0, too_long)), Status::BadArg);
        assert_eq!(judge(words(7, 0, 3)), Status::BadArg);

        let off = Terms {
            features: 0,
            ..TERMS
        };
        assert_eq!(Request::judge(&words(6, 0, 1), &off), Err(Status::BadOp));
    }

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
        let request = with(words(3, 2, 9), field!(stopwatch_request.flags), 7);
        let reply = Reply::encode(&request, Status::Stopped, &reading);
        assert_eq!(
            Reply::decode(&reply),
            Reply {
                status: Ok(Status::Stopped),
                reading
            }
        );
        assert_eq!(field!(stopwatch_reply.op).get(&reply), 3);
        assert_eq!(field!(stopwatch_reply.watch).get(&reply), 2);
        assert_eq!(field!(stopwatch_reply.flags).get(&reply), 7);

        let event = Event {
            kind: 1,
            watch: 2,
            sequence: 3,
            deadline_ns: 4,
            time_ns: 5,
            timeouts: 6,
        };
        assert_eq!(Event::decode(&event.encode()), event);
    }

    #[test]
    fn statuses_keep_their_numbers() {
        for number in 0..64 {
            match Status::from_wire(number) {
                Ok(status) => assert_eq!(status.to_wire(), number),
                Err(unknown) => assert_eq!(unknown, number),
            }
        }
    }
}
