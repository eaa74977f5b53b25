// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0

//! Which requests a device takes now.

use super::numbers::Numbers;
use super::storage::Storage;
use crate::protocol::command::Command;
use crate::protocol::command::Watches;
use crate::protocol::slot::Asked;
use crate::protocol::slot::Status;
use crate::uapi;

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// The guest, in a request ring.
    Guest(u32),
    /// A program of the host, which has no ring, no events and no features.
    Host,
}

/// What a device has, for the validation of requests.
pub(super) struct Context<'a, S: Storage> {
    pub(super) asker: Asker,
    pub(super) existing: &'a Numbers<S>,
    /// That of the stopwatch whose number is asked for.
    pub(super) generation: u32,
    pub(super) offered: u64,
    pub(super) features: u64,
    pub(super) min_interval_ns: u64,
}

impl<S: Storage> Context<'_, S> {
    /// Says what is to be done, and with which stopwatch, or why not. Where much is
    /// wrong, the first of operation, watch, flags, name and argument is named.
    ///
    /// A function `needs` what is with it, beside what its rule says.
    pub(super) fn validate(&self, asked: &Asked, needs: u64) -> Result<(u32, Command), Status> {
        const POSTED: u64 = uapi::STOPWATCH_F_POSTED as u64;

        let Asked { rule, watch, .. } = *asked;
        if (rule.needs | needs) & !self.features != 0 || self.asker == Asker::Host && !rule.host {
            return Err(Status::BadOp);
        }
        let is_meant = asked.generation == 0 || asked.generation == self.generation;
        if !self.allows(rule.watches, watch) || !is_meant {
            return Err(Status::BadWatch);
        }
        if asked.posted && (self.features & POSTED == 0 || self.asker == Asker::Host) {
            return Err(Status::BadFlags);
        }
        let command = asked.command?;
        match command {
            Command::Timeout(timeout)
                if timeout.interval_ns != 0 && timeout.interval_ns < self.min_interval_ns =>
            {
                Err(Status::Denied)
            }
            Command::SetFeatures(features) if features & !self.offered != 0 => Err(Status::BadArg),
            _ => Ok((watch, command)),
        }
    }

    /// Whether there is such a stopwatch of that number.
    fn allows(&self, watches: Watches, watch: u32) -> bool {
        match watches {
            Watches::Existing => self.existing.contains(watch),
            Watches::Created => watch >= uapi::STOPWATCH_NUMBERED && self.existing.contains(watch),
            Watches::Zero => watch == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage::tests::Heap;
    use crate::protocol::clock::ClockId;
    use crate::protocol::clock::TimeBase;
    use crate::protocol::command::Act;
    use crate::protocol::command::Binding;
    use crate::protocol::command::Identity;
    use crate::protocol::command::Timeout;
    use crate::protocol::name::Name;
    use crate::protocol::ring::SlotWords;
    use crate::protocol::slot::act;
    use crate::protocol::slot::creates;
    use crate::protocol::slot::Creation;
    use crate::protocol::slot::Message;
    use crate::protocol::slot::Request;
    use crate::protocol::words::field;
    use crate::protocol::words::Field;
    use proptest::prelude::*;
    use std::vec;

    const POSTED: u64 = uapi::STOPWATCH_F_POSTED as u64;

    /// 4 of the numbered ones, and one that was created.
    fn existing() -> Numbers<Heap> {
        let Ok(mut existing) = Numbers::new(80, 4);
        existing.insert(70);
        existing
    }

    fn validate_by(
        message: impl Into<Message>,
        features: u64,
        asker: Asker,
    ) -> Result<(u32, Command), Status> {
        let context = Context {
            asker,
            existing: &existing(),
            generation: 5,
            offered: 1,
            features,
            min_interval_ns: 10,
        };
        context.validate(&Asked::decode(message.into().words())?, 0)
    }

    fn validate(message: impl Into<Message>) -> Result<(u32, Command), Status> {
        validate_by(message, 1, Asker::Guest(0))
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

    fn arm(ns: u64, interval_ns: u64, at_elapsed: bool) -> Command {
        Command::Timeout(Timeout {
            ns,
            interval_ns,
            at_elapsed,
        })
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
        fn an_act_is_what_all_of_it_says(
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
            let all = validate_by(Message(words), features, Asker::Guest(0));
            match act(&words, features) {
                // Which one has the number is for who has the stopwatches.
                Some((watch, 0 | 5, act)) => {
                    prop_assert_eq!(all, Ok((watch, Command::Act(act))));
                }
                Some(_) => prop_assert_eq!(all, Err(Status::BadWatch)),
                None => prop_assert!(!matches!(all, Ok((_, Command::Act(_))))),
            }
        }
    }

    #[test]
    fn good_requests_are_taken() {
        for (op, operation) in [
            (uapi::STOPWATCH_OP_START, Command::Act(Act::Start)),
            (uapi::STOPWATCH_OP_PAUSE, Command::Act(Act::Pause)),
            (uapi::STOPWATCH_OP_LAP, Command::Act(Act::Lap)),
            (uapi::STOPWATCH_OP_RESET, Command::Act(Act::Reset)),
            (uapi::STOPWATCH_OP_READ, Command::Act(Act::Read)),
            (uapi::STOPWATCH_OP_READ_RESET, Command::ReadReset),
        ] {
            let start = Message::from(request(op, 3, 0));
            // Owner is not the request's business.
            let owned = with(start, field!(stopwatch_request.owner), 1);
            assert_eq!(validate(owned), Ok((3, operation)));
            assert_eq!(validate_by(start, 0, Asker::Host), Ok((3, operation)));
        }
        for (timeout, operation) in [
            (timeout(0, 0, 0), arm(0, 0, false)),
            (timeout(0, 0, 10), arm(0, 10, false)),
            (timeout(0, MAX, 0), arm(MAX, 0, false)),
            (timeout(0, 1, 10), arm(1, 10, false)),
            (timeout(1, 0, 0), arm(0, 0, true)),
            (timeout(1, 9, MAX), arm(9, MAX, true)),
        ] {
            assert_eq!(validate(timeout), Ok((3, operation)));
        }
        assert_eq!(
            validate(request(uapi::STOPWATCH_OP_SET_FEATURES, 0, 1)),
            Ok((0, Command::SetFeatures(1)))
        );
        assert_eq!(
            validate(request(uapi::STOPWATCH_OP_DELETE, 70, 0)),
            Ok((70, Command::Delete))
        );
        assert_eq!(
            validate(request(uapi::STOPWATCH_OP_SET_MODE, 70, (3 << 32) | 1000)),
            Ok((70, Command::SetMode { uid: 1000, mode: 3 }))
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
        assert_eq!(validate(creation), Ok((0, Command::Create(identity))));
    }

    #[test]
    fn bad_requests_are_told_why() {
        let start = request(uapi::STOPWATCH_OP_START, 0, 0);
        for op in [12, 14, 0xff] {
            assert_eq!(validate(request(op, 0, 0)), Err(Status::BadOp));
        }
        for watch in [4, 63, 71, 80, u32::MAX] {
            assert_eq!(validate(request(1, watch, 0)), Err(Status::BadWatch));
        }
        for op in [
            uapi::STOPWATCH_OP_SET_FEATURES,
            uapi::STOPWATCH_OP_DELETE,
            uapi::STOPWATCH_OP_SET_MODE,
        ] {
            assert_eq!(validate(request(op, 1, 1)), Err(Status::BadWatch));
        }
        let watch = field!(stopwatch_create.watch);
        assert_eq!(
            validate(with(Creation::default(), watch, 70)),
            Err(Status::BadWatch)
        );
        for (field, value) in [
            (field!(stopwatch_request.flags), 1),
            (field!(stopwatch_request.flags), 1 << 8),
            (field!(stopwatch_request.status), 1 << 31),
            (Field::new(32, 8), 1),
            (field!(stopwatch_request.reserved), 1),
            (Field::new(48, 8), 1),
            (Field::new(56, 8), 1 << 63),
        ] {
            assert_eq!(validate(with(start, field, value)), Err(Status::BadFlags));
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
            assert_eq!(validate(creation), Err(status));
        }
        for op in [1, 2, 3, 4, 5, 8] {
            assert_eq!(validate(request(op, 0, 1)), Err(Status::BadArg));
            let interval = field!(stopwatch_request.interval);
            let request = with(request(op, 0, 0), interval, 1);
            assert_eq!(validate(request), Err(Status::BadArg));
        }
        assert_eq!(validate(timeout(0, MAX + 1, 0)), Err(Status::BadArg));
        assert_eq!(validate(timeout(1, 0, MAX + 1)), Err(Status::BadArg));
        assert_eq!(validate(timeout(2, 1, 0)), Err(Status::BadFlags));
        assert_eq!(validate(timeout(0, 1, 9)), Err(Status::Denied));
        assert_eq!(validate(request(7, 0, 3)), Err(Status::BadArg));
        let mode = request(uapi::STOPWATCH_OP_SET_MODE, 70, 4 << 32);
        assert_eq!(validate(mode), Err(Status::BadArg));

        let off = validate_by(timeout(0, 1, 0), 0, Asker::Guest(0));
        assert_eq!(off, Err(Status::BadOp));
        for op in [6, 7, 11] {
            let host = validate_by(request(op, 0, 0), 1, Asker::Host);
            assert_eq!(host, Err(Status::BadOp));
        }
    }

    #[test]
    fn a_number_may_be_another_one_s_by_now() {
        let reads = |watch| request(uapi::STOPWATCH_OP_READ, watch, 0);
        for (request, generation, expected) in [
            (reads(70), 0, Ok((70, Command::Act(Act::Read)))),
            (reads(70), 5, Ok((70, Command::Act(Act::Read)))),
            (reads(70), 4, Err(Status::BadWatch)),
            (reads(70), 6, Err(Status::BadWatch)),
            (reads(71), 5, Err(Status::BadWatch)),
            (
                request(uapi::STOPWATCH_OP_DELETE, 70, 0),
                4,
                Err(Status::BadWatch),
            ),
            (
                request(uapi::STOPWATCH_OP_DELETE, 70, 0),
                5,
                Ok((70, Command::Delete)),
            ),
            // The watch counts before flags and arguments.
            (
                request(uapi::STOPWATCH_OP_READ, 70, 7),
                4,
                Err(Status::BadWatch),
            ),
            (
                request(uapi::STOPWATCH_OP_SET_MODE, 70, 1 << 63),
                4,
                Err(Status::BadWatch),
            ),
        ] {
            assert_eq!(validate(request.for_generation(generation)), expected);
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
            assert_eq!(validate(nop), Err(Status::Cancelled));
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
            (uapi::STOPWATCH_OP_BIND, 2, Command::Bind(binding)),
            (uapi::STOPWATCH_OP_UNBIND, 0, Command::Unbind(binding)),
        ] {
            let validate = |request| validate_by(request, POSTED, Asker::Guest(0));
            assert_eq!(
                validate(bind(op, watch, 3, u64::MAX)),
                Ok((watch, operation))
            );
            assert_eq!(validate(bind(op, watch, 32, 1)), Err(Status::BadArg));
        }
    }
}
