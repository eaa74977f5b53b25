// SPDX-License-Identifier: MIT OR Apache-2.0

//! A VM that ends while its doorbell is rung, and while a task has work left for it.
//!
//! The steps are those of `EventFdListener` in `abstractions/eventfd.rs`, whose
//! callback runs with the lock of a wait queue held, and of the task work that it
//! leaves to the task that kicks: the work holds the VM's file while it is queued.

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::region::{explore, finds, Turn};

/// What is done in another way than it should be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    No,
    /// The listener is taken off without the lock of the wait queue.
    RemovesWithoutLock,
    /// The task work holds nothing.
    NoReference,
    /// A reference is taken though there was none left.
    Resurrects,
    /// Work that comes while the task is at it is not noted.
    ForgetsWork,
}

struct Vm {
    /// The wait queue of the kick's eventfd: whether the listener is on it.
    queue: Mutex<()>,
    listens: AtomicBool,
    /// References to the file.
    file: AtomicUsize,
    freed: AtomicBool,
    /// The task work is queued.
    queued: AtomicBool,
    /// Requests that wait.
    requests: AtomicUsize,
    fault: Fault,
    turn: Turn,
}

impl Vm {
    fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(()),
            listens: AtomicBool::new(true),
            file: AtomicUsize::new(1),
            freed: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            fault,
            turn: Turn::default(),
        })
    }

    /// Whoever uses the VM's memory.
    fn touch(&self) {
        self.turn.give();
        assert!(
            !self.freed.load(Ordering::Relaxed),
            "used after it was freed"
        );
    }

    /// As `file_ref_get()`.
    fn get_file(&self) -> bool {
        let mut count = self.file.load(Ordering::Relaxed);
        loop {
            if count == 0 && self.fault != Fault::Resurrects {
                return false;
            }
            let new = count + 1;
            let (ok, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
            self.turn.give();
            match self.file.compare_exchange(count, new, ok, relaxed) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
    }

    /// As `fput()`.
    fn put_file(&self) {
        self.turn.give();
        if self.file.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.release();
        }
    }

    fn release(&self) {
        {
            let _queue = (self.fault != Fault::RemovesWithoutLock).then(|| self.queue.lock());
            self.turn.give();
            self.listens.store(false, Ordering::Relaxed);
        }
        self.turn.give();
        assert!(!self.freed.swap(true, Ordering::Relaxed), "freed twice");
    }

    /// A task posts a request and writes to the eventfd, and does on its way back what
    /// was left to it.
    fn kick(&self) {
        self.turn.give();
        self.requests.fetch_add(1, Ordering::Release);
        let mut task_work = false;
        {
            let _queue = self.queue.lock().unwrap();
            self.turn.give();
            if self.listens.load(Ordering::Relaxed) {
                // The callback: all is over the budget.
                self.touch();
                self.turn.give();
                let waits = self.requests.load(Ordering::Acquire) != 0;
                if waits && !self.queued.swap(true, Ordering::AcqRel) {
                    task_work = self.fault == Fault::NoReference || self.get_file();
                    if !task_work {
                        self.queued.store(false, Ordering::Release);
                    }
                }
                self.touch();
            }
        }
        if task_work {
            self.run();
        }
    }

    /// The task work.
    fn run(&self) {
        self.touch();
        // Before the look at the rings: what comes after that queues the work again.
        if self.fault != Fault::ForgetsWork {
            self.turn.give();
            self.queued.swap(false, Ordering::AcqRel);
        }
        self.turn.give();
        self.requests.swap(0, Ordering::AcqRel);
        self.touch();
        if self.fault == Fault::ForgetsWork {
            self.queued.store(false, Ordering::Release);
        }
        if self.fault != Fault::NoReference {
            self.put_file();
        }
    }
}

/// One task kicks and another one closes the file.
fn close(fault: Fault) -> impl Fn() {
    move || {
        let vm = Vm::new(fault);
        let kicks = {
            let vm = vm.clone();
            thread::spawn(move || vm.kick())
        };
        vm.put_file();
        kicks.join().unwrap();
        assert!(vm.freed.load(Ordering::Relaxed), "held for ever");
        assert_eq!(vm.file.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_vm_ends_after_its_callback_and_its_task_work() {
    explore(3, close(Fault::No));
}

#[test]
fn without_the_lock_a_callback_runs_in_freed_memory() {
    finds("after it was freed", 3, close(Fault::RemovesWithoutLock));
}

#[test]
fn without_a_reference_task_work_runs_in_freed_memory() {
    finds("after it was freed", 3, close(Fault::NoReference));
}

#[test]
fn a_file_that_is_being_released_is_not_held_again() {
    finds("freed", 3, close(Fault::Resurrects));
}

/// Two tasks kick.
fn kicks(fault: Fault) -> impl Fn() {
    move || {
        let vm = Vm::new(fault);
        let kicks = {
            let vm = vm.clone();
            thread::spawn(move || vm.kick())
        };
        vm.kick();
        kicks.join().unwrap();
        let left = vm.requests.load(Ordering::Relaxed);
        assert_eq!(left, 0, "posted, rung for, and left");
        vm.put_file();
        assert!(vm.freed.load(Ordering::Relaxed), "held for ever");
    }
}

#[test]
fn what_is_left_over_is_done() {
    explore(3, kicks(Fault::No));
}

#[test]
fn work_that_comes_while_a_task_is_at_it_may_be_forgotten() {
    finds("and left", 3, kicks(Fault::ForgetsWork));
}
