// SPDX-License-Identifier: MIT OR Apache-2.0

//! The rules of the protocol as state machines, all of whose states are visited:
//! bindings of a post ring (bind, unbind, abandon, move to another CPU, reset, stop
//! and start), and the order in which the host takes what waits.
//!
//! That something happens at last is checked as a bound: so many slots that the host
//! takes, and no more, go before it. The rules of version 1 of the wire, and faults of
//! each kind, are parameters; the checker has to find what is wrong with them.

use stateright::{Checker, Model, Property};

/// Visits all states. The names of the properties that do not hold.
fn faults<M>(model: M) -> Vec<&'static str>
where
    M: Model + Send + Sync + 'static,
    M::State: std::fmt::Debug + Clone + PartialEq + std::hash::Hash + Send + Sync,
    M::Action: std::fmt::Debug + Clone + PartialEq,
{
    let properties = model.properties();
    let checker = model.checker().threads(1).spawn_bfs().join();
    let mut faults = Vec::new();
    for property in properties {
        let found = checker.discovery(property.name);
        let is_fault = match property.expectation {
            stateright::Expectation::Sometimes => found.is_none(),
            _ => found.is_some(),
        };
        if is_fault {
            faults.push(property.name);
        }
    }
    faults
}

/// The stopwatch, and the program, of one of two users.
type User = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Bind(User),
    Unbind,
    /// Taken back.
    Nop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Request {
    op: Op,
    ticket: u8,
    /// Whether the driver waits for the answer.
    waited_for: bool,
}

/// The driver's part of a post ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ring {
    Free,
    /// The driver waits for the answer to the user's BIND.
    Asked(User),
    /// The user has it mapped.
    Mapped(User),
    /// The driver waits for the answer to the UNBIND.
    Ending,
    /// The driver waits for a reset of the device.
    Resetting,
}

/// A device with a post ring and two request rings, one a CPU.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Bindings {
    ring: Ring,
    /// The driver's last ticket.
    ticket: u8,
    /// What waits in each request ring.
    requests: [Option<Request>; 2],
    /// The user to whose stopwatch the host has bound the ring.
    bound: Option<User>,
    /// The host's: of the last BIND or UNBIND.
    last: u8,
    serves: bool,
    /// Slices of a reset that are left.
    reset: u8,
    /// So often a user has begun, or the device was reset.
    begun: u8,
    resets: u8,
    /// An answer said that the ticket was not the newest, though nobody had asked
    /// since.
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A user asks on a CPU for the ring.
    Bind(User, usize),
    /// The user closes the file, on that CPU.
    Close(usize),
    /// The driver does not wait any longer.
    Abandon,
    /// The host serves that request ring.
    Serve(usize),
    Stop,
    Start,
    /// The driver, or the VMM, resets the device.
    Reset,
    /// The host does a slice of that.
    Slice,
}

/// The rules.
#[derive(Clone, Copy)]
struct Rules {
    tickets: bool,
    /// What is abandoned is taken back if it still waits.
    takes_back: bool,
    /// No doorbell is served while a reset is not complete.
    waits_for_reset: bool,
}

const VERSION_2: Rules = Rules {
    tickets: true,
    takes_back: true,
    waits_for_reset: true,
};

const BEGUN: u8 = 4;
const RESETS: u8 = 1;
const SLICES: u8 = 3;

impl Rules {
    fn carry_out(self, state: &mut Bindings, request: Request) {
        let Request { op, ticket, .. } = request;
        let stale = self.tickets
            && match op {
                Op::Bind(_) => ticket <= state.last,
                Op::Unbind => ticket < state.last,
                Op::Nop => false,
            };
        match op {
            Op::Nop => {}
            _ if stale => {}
            Op::Bind(user) => {
                state.bound = Some(user);
                state.last = ticket;
            }
            Op::Unbind => {
                state.bound = None;
                state.last = ticket;
            }
        }
        if !request.waited_for {
            return;
        }
        state.ring = match (op, state.ring) {
            (Op::Bind(_), Ring::Asked(_)) if stale => {
                state.refused = true;
                Ring::Free
            }
            (Op::Bind(user), Ring::Asked(_)) => Ring::Mapped(user),
            (Op::Unbind, Ring::Ending) => Ring::Free,
            (_, ring) => ring,
        };
    }
}

impl Model for Rules {
    type State = Bindings;
    type Action = Step;

    fn init_states(&self) -> Vec<Bindings> {
        vec![Bindings {
            ring: Ring::Free,
            ticket: 0,
            requests: [None; 2],
            bound: None,
            last: 0,
            serves: true,
            reset: 0,
            begun: 0,
            resets: 0,
            refused: false,
        }]
    }

    fn actions(&self, state: &Bindings, steps: &mut Vec<Step>) {
        for cpu in 0..2 {
            if state.requests[cpu].is_none() {
                match state.ring {
                    Ring::Free if state.begun < BEGUN => {
                        steps.extend([Step::Bind(0, cpu), Step::Bind(1, cpu)]);
                    }
                    Ring::Mapped(_) => steps.push(Step::Close(cpu)),
                    _ => {}
                }
            } else if state.serves && (state.reset == 0 || !self.waits_for_reset) {
                steps.push(Step::Serve(cpu));
            }
        }
        if matches!(state.ring, Ring::Asked(_) | Ring::Ending) {
            steps.push(Step::Abandon);
        }
        steps.push(if state.serves {
            Step::Stop
        } else {
            Step::Start
        });
        if state.reset == 0 && state.resets < RESETS {
            steps.push(Step::Reset);
        }
        if state.reset != 0 && state.serves {
            steps.push(Step::Slice);
        }
    }

    fn next_state(&self, state: &Bindings, step: Step) -> Option<Bindings> {
        let mut state = state.clone();
        let post = |op, ticket| {
            Some(Request {
                op,
                ticket,
                waited_for: true,
            })
        };
        match step {
            Step::Bind(user, cpu) => {
                state.ticket += 1;
                state.begun += 1;
                state.ring = Ring::Asked(user);
                state.requests[cpu] = post(Op::Bind(user), state.ticket);
            }
            Step::Close(cpu) => {
                state.ring = Ring::Ending;
                state.requests[cpu] = post(Op::Unbind, state.ticket);
            }
            Step::Abandon => {
                // The ring is given back in either case.
                state.ring = Ring::Free;
                for request in state.requests.iter_mut().flatten() {
                    if request.waited_for {
                        request.waited_for = false;
                        if self.takes_back {
                            request.op = Op::Nop;
                        }
                    }
                }
            }
            Step::Serve(cpu) => {
                let request = state.requests[cpu].take()?;
                self.carry_out(&mut state, request);
            }
            Step::Stop => state.serves = false,
            Step::Start => state.serves = true,
            Step::Reset => {
                state.resets += 1;
                state.reset = SLICES;
                state.ring = Ring::Resetting;
                // Nobody waits for an answer any more, but the slots are as they were.
                for request in state.requests.iter_mut().flatten() {
                    request.waited_for = false;
                }
            }
            Step::Slice => {
                match state.reset {
                    SLICES => {
                        state.bound = None;
                        state.last = 0;
                    }
                    slice => state.requests[usize::from(slice) - 1] = None,
                }
                state.reset -= 1;
                if state.reset == 0 {
                    state.ring = Ring::Free;
                    state.ticket = 0;
                }
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(ONLY_OWN, |_, state| match state.ring {
                Ring::Mapped(user) => state.bound == Some(user),
                _ => true,
            }),
            Property::<Self>::always(NOT_REFUSED, |_, state| !state.refused),
            Property::<Self>::always("a reset leaves nothing bound", |_, state| {
                state.resets == 0 || state.reset != 0 || state.ticket != 0 || state.bound.is_none()
            }),
            Property::<Self>::sometimes("a ring is used again", |_, state| {
                state.begun > 1 && matches!(state.ring, Ring::Mapped(_))
            }),
            Property::<Self>::sometimes("a ring is used after a reset", |_, state| {
                state.resets == RESETS && matches!(state.ring, Ring::Mapped(_))
            }),
        ]
    }
}

const ONLY_OWN: &str = "who has a ring mapped posts for his own stopwatch";
const NOT_REFUSED: &str = "the newest request is not refused";

#[test]
fn an_abandoned_request_never_acts_for_another() {
    assert_eq!(faults(VERSION_2), [""; 0]);
}

#[test]
fn nor_does_it_where_the_driver_takes_nothing_back() {
    let rules = Rules {
        takes_back: false,
        ..VERSION_2
    };
    assert_eq!(faults(rules), [""; 0]);
}

#[test]
fn by_the_rules_of_version_1_it_does() {
    let rules = Rules {
        tickets: false,
        takes_back: false,
        ..VERSION_2
    };
    assert!(faults(rules).contains(&ONLY_OWN));
}

#[test]
fn a_doorbell_that_is_served_within_a_reset_is_found() {
    let rules = Rules {
        takes_back: false,
        waits_for_reset: false,
        ..VERSION_2
    };
    assert!(!faults(rules).is_empty());
}

/// Slots of each ring.
const CAPACITY: u8 = 2;
/// Rings in which somebody posts as fast as he can, with stamps in the future.
const HOSTILE: usize = 2;
/// What waits for the end of a cut: a request that was not posted, and the timer.
const WAITERS: usize = 2;

/// The slots that the host takes before one that waits: the rest of the cut that is
/// under way, the next one, and those who wait with it.
const BOUND: u8 = 2 * CAPACITY * HOSTILE as u8 + WAITERS as u8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Queue {
    waiting: [u8; HOSTILE],
    /// Of these, those that are taken before a waiter.
    ahead: [[u8; HOSTILE]; WAITERS],
    /// How many slots the host has taken since it began to wait.
    waits: [Option<u8>; WAITERS],
    /// The cut: what may be taken of each ring, and who waits for its end.
    cut: Option<([u8; HOSTILE], [bool; WAITERS])>,
    /// Slots left of the section.
    section: u8,
    serves: bool,
    early: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Somebody posts in that ring.
    Post(usize),
    Wait(usize),
    /// The host takes one slot.
    Take,
    /// The host lets go of its lock, and takes it again.
    Section,
    Stop,
    Start,
    Reset,
}

/// The order in which the host takes what waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// By the stamps alone, as in version 1.
    Stamps,
    /// With the cut.
    Cut,
    /// With a cut that begins anew with each section.
    Forgetful,
    /// Who waits comes first.
    Impatient,
}

const SECTION: u8 = 3;

impl Order {
    fn take(self, state: &mut Queue) -> Option<()> {
        let waits = state.waits.map(|waits| waits.is_some());
        if self != Order::Stamps && state.cut.is_none() && waits != [false; WAITERS] {
            let credit = match self {
                Order::Impatient => 0,
                _ => CAPACITY,
            };
            state.cut = Some(([credit; HOSTILE], waits));
        }
        // One that is seen empty has had its turn.
        let mut credits = [CAPACITY; HOSTILE];
        if let Some((credit, _)) = &mut state.cut {
            for (credit, waiting) in credit.iter_mut().zip(state.waiting) {
                *credit *= u8::from(waiting != 0);
            }
            credits = *credit;
        }
        let ring = (0..HOSTILE).find(|&ring| state.waiting[ring] != 0 && credits[ring] != 0);
        let waiter = match (&state.cut, ring) {
            (_, Some(ring)) => {
                state.waiting[ring] -= 1;
                if let Some((credit, _)) = &mut state.cut {
                    credit[ring] -= 1;
                }
                for ahead in &mut state.ahead {
                    ahead[ring] = ahead[ring].saturating_sub(1);
                }
                None
            }
            (Some((_, of_the_cut)), None) => of_the_cut.iter().position(|waits| *waits),
            (None, None) => Some(waits.iter().position(|waits| *waits)?),
        };
        for waits in state.waits.iter_mut().flatten() {
            *waits = (*waits + 1).min(BOUND + 1);
        }
        if let Some(waiter) = waiter {
            state.early |= state.ahead[waiter] != [0; HOSTILE];
            state.ahead[waiter] = [0; HOSTILE];
            state.waits[waiter] = None;
            if let Some((_, of_the_cut)) = &mut state.cut {
                of_the_cut[waiter] = false;
                if *of_the_cut == [false; WAITERS] {
                    state.cut = None;
                }
            }
        }
        Some(())
    }
}

impl Model for Order {
    type State = Queue;
    type Action = Turn;

    fn init_states(&self) -> Vec<Queue> {
        vec![Queue {
            waiting: [0; HOSTILE],
            ahead: [[0; HOSTILE]; WAITERS],
            waits: [None; WAITERS],
            cut: None,
            section: SECTION,
            serves: true,
            early: false,
        }]
    }

    fn actions(&self, state: &Queue, turns: &mut Vec<Turn>) {
        turns.extend(
            (0..HOSTILE)
                .filter_map(|ring| (state.waiting[ring] < CAPACITY).then_some(Turn::Post(ring))),
        );
        turns.extend(
            (0..WAITERS)
                .filter_map(|waiter| state.waits[waiter].is_none().then_some(Turn::Wait(waiter))),
        );
        if !state.serves {
            turns.push(Turn::Start);
        } else if state.section == 0 {
            turns.push(Turn::Section);
        } else {
            turns.extend([Turn::Take, Turn::Stop]);
        }
        turns.push(Turn::Reset);
    }

    fn next_state(&self, state: &Queue, turn: Turn) -> Option<Queue> {
        let mut state = state.clone();
        match turn {
            Turn::Post(ring) => state.waiting[ring] += 1,
            Turn::Wait(waiter) => {
                state.waits[waiter] = Some(0);
                state.ahead[waiter] = state.waiting;
            }
            Turn::Take => {
                state.section -= 1;
                self.take(&mut state)?;
            }
            Turn::Section => {
                state.section = SECTION;
                if *self == Order::Forgetful {
                    state.cut = None;
                }
            }
            Turn::Stop => state.serves = false,
            Turn::Start => {
                state.serves = true;
                state.section = SECTION;
            }
            // Rings are empty then, and nobody waits.
            Turn::Reset => return self.init_states().pop(),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(PROGRESS, |_, state| {
                state.waits.iter().flatten().all(|waits| *waits <= BOUND)
            }),
            Property::<Self>::always(IN_ORDER, |_, state| !state.early),
            Property::<Self>::sometimes("all wait", |_, state| {
                state.waiting == [CAPACITY; HOSTILE] && state.waits.iter().all(Option::is_some)
            }),
        ]
    }
}

const PROGRESS: &str = "an honest ring, and the timer, make progress";
const IN_ORDER: &str = "what was posted before is done before";

#[test]
fn an_honest_ring_always_makes_progress() {
    assert_eq!(faults(Order::Cut), [""; 0]);
}

#[test]
fn by_the_stamps_alone_it_does_not() {
    assert!(faults(Order::Stamps).contains(&PROGRESS));
}

#[test]
fn with_a_cut_that_is_forgotten_it_does_not() {
    assert!(faults(Order::Forgetful).contains(&PROGRESS));
}

#[test]
fn one_that_comes_first_overtakes_what_was_posted() {
    assert!(faults(Order::Impatient).contains(&IN_ORDER));
}
