// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which requests are good.

use super::numbers::Numbers;
use super::stopwatch::Identity;
use super::storage::Storage;
use super::times::TimeBase;
use crate::protocol::clock::ClockId;
use crate::protocol::command::Act;
use crate::protocol::command::Binding;
use crate::protocol::command::Operation;
use crate::protocol::name::Name;
use crate::protocol::ring::SlotWords;
use crate::protocol::slot::Request;
use crate::protocol::slot::Status;
use crate::protocol::words::bytes;
use crate::protocol::words::field;
use crate::uapi;

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// The guest, in a request ring.
    Guest(u32),
    /// A program of the host, which has no ring, no events and no features.
    Host,
}

/// What a device takes, for the judgement of requests.
pub(super) struct Terms<'a, S: Storage> {
    pub(super) asker: Asker,
    pub(super) existing: &'a Numbers<S>,
    pub(super) offered: u64,
    pub(super) features: u64,
    pub(super) min_interval_ns: u64,
}

/// Which stopwatches an operation may name.
enum Watches {
    Existing,
    /// Those that exist and were created.
    Created,
    /// None: the number is 0.
    Zero,
}

/// What a request must keep to, by its operation.
struct Rule {
    /// The features that must be on.
    needs: u64,
    watches: Watches,
    flags: u32,
    max_arg: u64,
    max_interval: u64,
    /// Whether it is for the host's programs, too.
    host: bool,
}

/// The features that an operation with the flag needs.
const POSTED: u64 = uapi::STOPWATCH_F_POSTED as u64;

const MODES: u32 = uapi::STOPWATCH_MODE_READ | uapi::STOPWATCH_MODE_CONTROL;

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
        needs: POSTED,
        max_arg: uapi::STOPWATCH_MAX_POST_RINGS as u64 - 1,
        max_interval: u64::MAX,
        host: false,
        ..Self::PLAIN
    };
    const UNBIND: Self = Self {
        watches: Watches::Zero,
        ..Self::BIND
    };
    const CREATE: Self = Self {
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

    /// The table of operations.
    fn of(op: u16) -> Option<&'static Self> {
        Some(match u32::from(op) {
            uapi::STOPWATCH_OP_START
            | uapi::STOPWATCH_OP_PAUSE
            | uapi::STOPWATCH_OP_LAP
            | uapi::STOPWATCH_OP_RESET => &Self::ACT,
            uapi::STOPWATCH_OP_READ | uapi::STOPWATCH_OP_READ_RESET => &Self::PLAIN,
            uapi::STOPWATCH_OP_TIMEOUT => &Self::TIMEOUT,
            uapi::STOPWATCH_OP_SET_FEATURES => &Self::SET_FEATURES,
            uapi::STOPWATCH_OP_CREATE => &Self::CREATE,
            uapi::STOPWATCH_OP_DELETE => &Self::DELETE,
            uapi::STOPWATCH_OP_SET_MODE => &Self::SET_MODE,
            uapi::STOPWATCH_OP_BIND => &Self::BIND,
            uapi::STOPWATCH_OP_UNBIND => &Self::UNBIND,
            _ => return None,
        })
    }

    /// Whether there is a stopwatch of that number for the operation.
    fn allows(&self, watch: u32, existing: &Numbers<impl Storage>) -> bool {
        match self.watches {
            Watches::Existing => existing.contains(watch),
            Watches::Created => watch >= uapi::STOPWATCH_NUMBERED && existing.contains(watch),
            Watches::Zero => watch == 0,
        }
    }
}

/// Says what a slot asks for, and of which stopwatch, or what is wrong with it.
/// Where much is wrong, the first of operation, watch, flags, name and argument
/// is named.
pub(super) fn judge(
    words: &SlotWords,
    terms: &Terms<'_, impl Storage>,
) -> Result<(u32, Operation), Status> {
    let op = field!(stopwatch_request.op).get(words) as u16;
    if u32::from(op) == uapi::STOPWATCH_OP_NOP && terms.asker != Asker::Host {
        return Err(Status::Cancelled);
    }
    let rule = Rule::of(op).ok_or(Status::BadOp)?;
    if rule.needs & !terms.features != 0 || terms.asker == Asker::Host && !rule.host {
        return Err(Status::BadOp);
    }
    let watch = field!(stopwatch_request.watch).get32(words);
    if !rule.allows(watch, terms.existing) {
        return Err(Status::BadWatch);
    }
    let flags = field!(stopwatch_request.flags).get32(words);
    if flags & !rule.flags != 0 || field!(stopwatch_request.status).get32(words) != 0 {
        return Err(Status::BadFlags);
    }
    if u32::from(op) == uapi::STOPWATCH_OP_CREATE {
        return Ok((watch, Operation::Create));
    }
    // Only what may be posted gets here with the flag.
    let posted = flags & uapi::STOPWATCH_REQUEST_POSTED != 0;
    if posted && (terms.features & POSTED == 0 || terms.asker == Asker::Host) {
        return Err(Status::BadFlags);
    }
    if !posted && field!(stopwatch_request.stamp_ns).get(words) != 0 || reserved(words) != 0 {
        return Err(Status::BadFlags);
    }
    let request = Request {
        op,
        watch,
        flags,
        arg: field!(stopwatch_request.arg).get(words),
        interval: field!(stopwatch_request.interval).get(words),
    };
    Ok((watch, operation(&request, rule, terms)?))
}

/// Says what is asked for, or what is wrong with the arguments.
#[inline]
fn operation(
    request: &Request,
    rule: &Rule,
    terms: &Terms<'_, impl Storage>,
) -> Result<Operation, Status> {
    let (arg, interval) = (request.arg, request.interval);
    if arg > rule.max_arg || interval > rule.max_interval {
        return Err(Status::BadArg);
    }
    Ok(match u32::from(request.op) {
        uapi::STOPWATCH_OP_START => Operation::Act(Act::Start),
        uapi::STOPWATCH_OP_PAUSE => Operation::Act(Act::Pause),
        uapi::STOPWATCH_OP_LAP => Operation::Act(Act::Lap),
        uapi::STOPWATCH_OP_RESET => Operation::Act(Act::Reset),
        uapi::STOPWATCH_OP_READ => Operation::Act(Act::Read),
        uapi::STOPWATCH_OP_READ_RESET => Operation::ReadReset,
        uapi::STOPWATCH_OP_TIMEOUT if interval != 0 && interval < terms.min_interval_ns => {
            return Err(Status::Denied);
        }
        uapi::STOPWATCH_OP_TIMEOUT if request.flags != 0 => {
            Operation::TimeoutElapsed(arg, interval)
        }
        uapi::STOPWATCH_OP_TIMEOUT if arg == 0 => Operation::Disarm,
        uapi::STOPWATCH_OP_TIMEOUT => Operation::Timeout(arg, interval),
        uapi::STOPWATCH_OP_DELETE => Operation::Delete,
        uapi::STOPWATCH_OP_SET_MODE => {
            let (uid, mode) = (arg as u32, (arg >> 32) as u32);
            if mode & !MODES != 0 {
                return Err(Status::BadArg);
            }
            Operation::SetMode { uid, mode }
        }
        uapi::STOPWATCH_OP_SET_FEATURES if arg & !terms.offered != 0 => {
            return Err(Status::BadArg);
        }
        uapi::STOPWATCH_OP_SET_FEATURES => Operation::SetFeatures(arg),
        uapi::STOPWATCH_OP_BIND => Operation::Bind(Binding {
            ring: arg as u32,
            ticket: interval,
        }),
        uapi::STOPWATCH_OP_UNBIND => Operation::Unbind(Binding {
            ring: arg as u32,
            ticket: interval,
        }),
        _ => return Err(Status::BadOp),
    })
}

/// Says what stopwatch a slot asks for, after [`judge`], or what is wrong
/// with it.
pub(super) fn identity(words: &SlotWords) -> Result<Identity, Status> {
    if field!(stopwatch_create.reserved).get(words) != 0 {
        return Err(Status::BadFlags);
    }
    let name = Name::new(bytes!(stopwatch_create.name).get(words)).ok_or(Status::BadName)?;
    let flags = field!(stopwatch_create.flags).get32(words);
    let mode = field!(stopwatch_create.mode).get32(words);
    let clock = field!(stopwatch_create.clock).get32(words);
    if mode & !MODES != 0 {
        return Err(Status::BadArg);
    }
    let clock = ClockId::from_wire(clock).ok_or(Status::BadArg)?;
    let skip_paused = flags & uapi::STOPWATCH_CREATE_SKIP_PAUSED != 0;
    Ok(Identity {
        name,
        uid: field!(stopwatch_create.uid).get32(words),
        mode,
        time_base: TimeBase::new(clock, skip_paused),
    })
}

/// [`judge`] in short, for a guest's [`Act`]: it is told of most slots that ask
/// for one, if the stopwatch exists, and of none in which anything is wrong.
#[inline(always)]
pub(super) fn act(words: &SlotWords, features: u64) -> Option<(u32, Act)> {
    const _: () =
        assert!(field!(stopwatch_request.flags).is_beside(field!(stopwatch_request.status)));
    let act = match field!(stopwatch_request.op).get32(words) {
        uapi::STOPWATCH_OP_START => Act::Start,
        uapi::STOPWATCH_OP_PAUSE => Act::Pause,
        uapi::STOPWATCH_OP_LAP => Act::Lap,
        uapi::STOPWATCH_OP_RESET => Act::Reset,
        uapi::STOPWATCH_OP_READ => Act::Read,
        _ => return None,
    };
    let mut zero = field!(stopwatch_request.arg).get(words)
        | field!(stopwatch_request.interval).get(words)
        | reserved(words);
    let flags_and_status = field!(stopwatch_request.flags).word(words);
    if flags_and_status != u64::from(uapi::STOPWATCH_REQUEST_POSTED) {
        zero |= flags_and_status | field!(stopwatch_request.stamp_ns).get(words);
    } else if features & POSTED == 0 || act == Act::Read {
        return None;
    }
    (zero == 0).then(|| (field!(stopwatch_request.watch).get32(words), act))
}

/// Zero, if all are that have to be in a request that is not for a new stopwatch.
#[inline(always)]
fn reserved(words: &SlotWords) -> u64 {
    const _: () = assert!(core::mem::offset_of!(uapi::stopwatch_request, reserved) == 5 * 8);
    let [_, _, _, _, _, first, second, third] = *words;
    first | second | third
}

/// The argument of an operation that is not a stopwatch's and is there, or what
/// is wrong with the request.
pub(super) fn judge_function(words: &SlotWords) -> Result<u64, Status> {
    if field!(stopwatch_request.watch).get32(words) != 0 {
        return Err(Status::BadWatch);
    }
    let zero = u64::from(field!(stopwatch_request.flags).get32(words))
        | field!(stopwatch_request.status).get(words)
        | field!(stopwatch_request.stamp_ns).get(words)
        | reserved(words);
    if zero != 0 {
        return Err(Status::BadFlags);
    }
    if field!(stopwatch_request.interval).get(words) != 0 {
        return Err(Status::BadArg);
    }
    Ok(field!(stopwatch_request.arg).get(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::tests::Heap;
    use crate::protocol::slot::creates;
    use crate::protocol::slot::Creation;
    use crate::protocol::slot::Message;
    use crate::protocol::words::Field;
    use proptest::prelude::*;
    use std::vec;

    /// 4 of the numbered ones, and one that was created.
    fn existing() -> Numbers<Heap> {
        let Ok(mut existing) = Numbers::new(80, 4);
        existing.insert(70);
        existing
    }

    fn judge_by(
        message: impl Into<Message>,
        features: u64,
        asker: Asker,
    ) -> Result<(u32, Operation), Status> {
        let terms = Terms {
            asker,
            existing: &existing(),
            offered: 1,
            features,
            min_interval_ns: 10,
        };
        super::judge(message.into().words(), &terms)
    }

    fn judge(message: impl Into<Message>) -> Result<(u32, Operation), Status> {
        judge_by(message, 1, Asker::Guest(0))
    }

    fn create(creation: impl Into<Message>) -> Result<Identity, Status> {
        let message = creation.into();
        judge(message)?;
        identity(message.words())
    }

    fn request(op: u32, watch: u32, arg: u64) -> Request {
        Request {
            op: op as u16,
            watch,
            arg,
            ..Request::default()
        }
    }

    fn timeout(flags: u32, arg: u64, interval: u64) -> Request {
        Request {
            flags,
            interval,
            ..request(uapi::STOPWATCH_OP_TIMEOUT, 3, arg)
        }
    }

    fn with(message: impl Into<Message>, field: Field, value: u64) -> Message {
        let Message(mut words) = message.into();
        field.set(&mut words, value);
        Message(words)
    }

    const MAX: u64 = uapi::STOPWATCH_MAX_TIMEOUT_NS;

    proptest! {
        /// The short way never says anything else than the long one.
        #[test]
        fn an_act_is_what_judge_says(
            op in 0..12u64,
            watch in prop::sample::select(vec![3u64, 70]),
            flags in prop::sample::select(vec![0, 1, u64::from(uapi::STOPWATCH_REQUEST_POSTED)]),
            stamp in 0..2u64,
            other in prop::option::of((0..64u32, 1..8usize)),
            features in prop::sample::select(vec![0, 1, POSTED]),
        ) {
            let mut words = SlotWords::default();
            field!(stopwatch_request.op).set(&mut words, op);
            field!(stopwatch_request.watch).set(&mut words, watch);
            field!(stopwatch_request.flags).set(&mut words, flags);
            field!(stopwatch_request.stamp_ns).set(&mut words, stamp);
            if let Some((bit, word)) = other {
                words[word] |= 1 << bit;
            }
            let judged = judge_by(Message(words), features, Asker::Guest(0));
            match act(&words, features) {
                Some((watch, act)) => prop_assert_eq!(judged, Ok((watch, Operation::Act(act)))),
                None => prop_assert!(!matches!(judged, Ok((_, Operation::Act(_))))),
            }
        }
    }

    #[test]
    fn good_requests_are_taken() {
        for (op, operation) in [
            (uapi::STOPWATCH_OP_START, Operation::Act(Act::Start)),
            (uapi::STOPWATCH_OP_PAUSE, Operation::Act(Act::Pause)),
            (uapi::STOPWATCH_OP_LAP, Operation::Act(Act::Lap)),
            (uapi::STOPWATCH_OP_RESET, Operation::Act(Act::Reset)),
            (uapi::STOPWATCH_OP_READ, Operation::Act(Act::Read)),
            (uapi::STOPWATCH_OP_READ_RESET, Operation::ReadReset),
        ] {
            let start = Message::from(request(op, 3, 0));
            // Owner is not the request's business.
            let owned = with(start, field!(stopwatch_request.owner), 1);
            assert_eq!(judge(owned), Ok((3, operation)));
            assert_eq!(judge_by(start, 0, Asker::Host), Ok((3, operation)));
        }
        for (timeout, operation) in [
            (timeout(0, 0, 0), Operation::Disarm),
            (timeout(0, 0, 10), Operation::Disarm),
            (timeout(0, MAX, 0), Operation::Timeout(MAX, 0)),
            (timeout(0, 1, 10), Operation::Timeout(1, 10)),
            (timeout(1, 0, 0), Operation::TimeoutElapsed(0, 0)),
            (timeout(1, 9, MAX), Operation::TimeoutElapsed(9, MAX)),
        ] {
            assert_eq!(judge(timeout), Ok((3, operation)));
        }
        assert_eq!(
            judge(request(uapi::STOPWATCH_OP_SET_FEATURES, 0, 1)),
            Ok((0, Operation::SetFeatures(1)))
        );
        assert_eq!(
            judge(request(uapi::STOPWATCH_OP_DELETE, 70, 0)),
            Ok((70, Operation::Delete))
        );
        assert_eq!(
            judge(request(uapi::STOPWATCH_OP_SET_MODE, 70, (3 << 32) | 1000)),
            Ok((70, Operation::SetMode { uid: 1000, mode: 3 }))
        );
        let creation = Creation {
            name: Name::new(*b"boot                           \0").unwrap(),
            flags: 1,
            uid: 1000,
            mode: 2,
            clock: 2,
        };
        let identity = Identity {
            name: creation.name,
            uid: 1000,
            mode: 2,
            time_base: TimeBase::new(ClockId::Boottime, true),
        };
        assert_eq!(judge(creation), Ok((0, Operation::Create)));
        assert_eq!(create(creation), Ok(identity));
    }

    #[test]
    fn bad_requests_are_told_why() {
        let start = request(uapi::STOPWATCH_OP_START, 0, 0);
        for op in [12, 14, 0xffff] {
            assert_eq!(judge(request(op, 0, 0)), Err(Status::BadOp));
        }
        let host = judge_by(request(0, 0, 0), 1, Asker::Host);
        assert_eq!(host, Err(Status::BadOp));
        for watch in [4, 63, 71, 80, u32::MAX] {
            assert_eq!(judge(request(1, watch, 0)), Err(Status::BadWatch));
        }
        for op in [
            uapi::STOPWATCH_OP_SET_FEATURES,
            uapi::STOPWATCH_OP_DELETE,
            uapi::STOPWATCH_OP_SET_MODE,
        ] {
            assert_eq!(judge(request(op, 1, 1)), Err(Status::BadWatch));
        }
        let watch = field!(stopwatch_create.watch);
        assert_eq!(
            judge(with(Creation::default(), watch, 70)),
            Err(Status::BadWatch)
        );
        for (field, value) in [
            (field!(stopwatch_request.flags), 1),
            (field!(stopwatch_request.flags), 1 << 8),
            (field!(stopwatch_request.status), 1 << 31),
            (Field::new(32, 8), 1),
            (Field::new(56, 8), 1 << 63),
        ] {
            assert_eq!(judge(with(start, field, value)), Err(Status::BadFlags));
        }
        for (field, value, status) in [
            (field!(stopwatch_create.flags), 2, Status::BadFlags),
            (field!(stopwatch_create.status), 1, Status::BadFlags),
            (field!(stopwatch_create.reserved), 1, Status::BadFlags),
            (Field::new(16, 8), 0x2f, Status::BadName),
            (Field::new(24, 8), 0x61, Status::BadName),
            (field!(stopwatch_create.mode), 4, Status::BadArg),
            (field!(stopwatch_create.clock), 3, Status::BadArg),
        ] {
            let creation = with(Creation::default(), field, value);
            assert_eq!(create(creation), Err(status));
        }
        for op in [1, 2, 3, 4, 5, 8] {
            assert_eq!(judge(request(op, 0, 1)), Err(Status::BadArg));
            let interval = field!(stopwatch_request.interval);
            let request = with(request(op, 0, 0), interval, 1);
            assert_eq!(judge(request), Err(Status::BadArg));
        }
        assert_eq!(judge(timeout(0, MAX + 1, 0)), Err(Status::BadArg));
        assert_eq!(judge(timeout(1, 0, MAX + 1)), Err(Status::BadArg));
        assert_eq!(judge(timeout(2, 1, 0)), Err(Status::BadFlags));
        assert_eq!(judge(timeout(0, 1, 9)), Err(Status::Denied));
        assert_eq!(judge(request(7, 0, 3)), Err(Status::BadArg));
        let mode = request(uapi::STOPWATCH_OP_SET_MODE, 70, 4 << 32);
        assert_eq!(judge(mode), Err(Status::BadArg));

        let off = judge_by(timeout(0, 1, 0), 0, Asker::Guest(0));
        assert_eq!(off, Err(Status::BadOp));
        for op in [6, 7, 11] {
            let host = judge_by(request(op, 0, 0), 1, Asker::Host);
            assert_eq!(host, Err(Status::BadOp));
        }
    }

    #[test]
    fn what_is_taken_back_is_cancelled_whatever_else_it_says() {
        for message in [
            Message::from(request(uapi::STOPWATCH_OP_START, 999, 7)),
            Message([u64::MAX; 8]),
            Message::from(timeout(0, MAX, 0)),
            Message::from(Creation::default()),
        ] {
            let nop = with(message, field!(stopwatch_request.op), 0);
            assert_eq!(judge(nop), Err(Status::Cancelled));
            assert_eq!(act(nop.words(), POSTED), None);
            assert!(!creates(nop.words()));
        }
        assert!(Status::Cancelled.is_refused() && !Status::Cancelled.is_bad());
    }

    #[test]
    fn a_binding_has_a_ticket() {
        let bind = |op, watch, arg, interval| Request {
            interval,
            ..request(op, watch, arg)
        };
        let binding = Binding {
            ring: 3,
            ticket: u64::MAX,
        };
        for (op, watch, operation) in [
            (uapi::STOPWATCH_OP_BIND, 2, Operation::Bind(binding)),
            (uapi::STOPWATCH_OP_UNBIND, 0, Operation::Unbind(binding)),
        ] {
            let judge = |request| judge_by(request, POSTED, Asker::Guest(0));
            assert_eq!(judge(bind(op, watch, 3, u64::MAX)), Ok((watch, operation)));
            assert_eq!(judge(bind(op, watch, 32, 1)), Err(Status::BadArg));
        }
    }
}
