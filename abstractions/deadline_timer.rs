// SPDX-License-Identifier: GPL-2.0

//! A timer for the earliest of many deadlines, which may be set anew at any time from any context,
//! its own handler included.
//!
//! `kernel::time::hrtimer` ties a started timer to a handle whose drop waits for the handler. That
//! is not possible here: a deadline is set in a wake-up function, under the very lock that the
//! handler takes. So the timer has no handle; it is stopped when it is dropped.
//!
//! C header: [`include/linux/hrtimer.h`](srctree/include/linux/hrtimer.h)

use core::ops::Deref;
use kernel::{
    bindings,
    prelude::*,
    types::Opaque, //
};

/// What a [`DeadlineTimer`] calls.
pub(crate) trait DeadlineHandler: Sync + Sized + 'static {
    /// The deadline has passed. Runs in hard interrupt context, never twice at a time. On
    /// PREEMPT_RT the kernel moves a timer without `HRTIMER_MODE_HARD` to a softirq, which is a
    /// thread there: so a spinlock of that kernel, which may sleep, can be taken in either.
    ///
    /// May set the next deadline on `timer`.
    fn expired(timer: &DeadlineTimer<Self>);
}

/// A timer on `CLOCK_MONOTONIC` together with what it belongs to.
///
/// Dereferences to the `T`. Dropping it waits for a handler that runs: not in the handler, nor with
/// a lock that the handler takes.
///
/// # Examples
///
/// ```
/// use crate::abstractions::deadline_timer::{DeadlineHandler, DeadlineTimer};
/// use kernel::sync::{Arc, Completion};
///
/// #[pin_data]
/// struct Expiry {
///     #[pin]
///     passed: Completion,
/// }
///
/// impl DeadlineHandler for Expiry {
///     fn expired(timer: &DeadlineTimer<Self>) {
///         timer.passed.complete_all();
///     }
/// }
///
/// let expiry = try_pin_init!(Expiry { passed <- Completion::new() });
/// let timer = Arc::pin_init(DeadlineTimer::new(expiry), GFP_KERNEL)?;
///
/// // This one is in the past, and expires at once.
/// timer.set(0);
/// timer.passed.wait_for_completion();
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `timer` is initialised, with `Self::run` as its function, and is the first field.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct DeadlineTimer<T: DeadlineHandler> {
    #[pin]
    timer: Opaque<bindings::hrtimer>,
    #[pin]
    inner: T,
}

// SAFETY: An hrtimer may be started, cancelled and dropped on any CPU.
unsafe impl<T: DeadlineHandler + Send> Send for DeadlineTimer<T> {}
// SAFETY: The hrtimer functions used through `&self` take the timer base's lock; `T` is `Sync`.
unsafe impl<T: DeadlineHandler> Sync for DeadlineTimer<T> {}

impl<T: DeadlineHandler> DeadlineTimer<T> {
    /// An initialiser: no deadline is set.
    pub(crate) fn new(inner: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        // INVARIANT: `hrtimer_setup()` initialises `timer` with `run`.
        try_pin_init!(Self {
            timer <- Opaque::ffi_init(|timer| {
                // SAFETY: `timer` is valid for writes and will not move.
                unsafe {
                    bindings::hrtimer_setup(
                        timer,
                        Some(Self::run),
                        bindings::CLOCK_MONOTONIC as bindings::clockid_t,
                        bindings::hrtimer_mode_HRTIMER_MODE_ABS,
                    )
                }
            }),
            inner <- inner,
        })
    }

    /// Sets the deadline, in ns of `CLOCK_MONOTONIC`; replaces the one that was set. A deadline in
    /// the past expires at once. Usable in any context, also in the handler.
    pub(crate) fn set(&self, deadline_ns: u64) {
        // A deadline above what `ktime_t` holds is as good as the last one that it does.
        let deadline = deadline_ns.min(i64::MAX as u64) as bindings::ktime_t;

        // SAFETY: By the type invariant the timer is initialised, and it does not move. Starting
        // a timer that is started, or that runs its function, is what hrtimers allow for.
        unsafe {
            bindings::hrtimer_start_range_ns(
                self.timer.get(),
                deadline,
                0,
                bindings::hrtimer_mode_HRTIMER_MODE_ABS,
            )
        };
    }

    /// Unsets the deadline. A handler that runs at this moment goes on. Usable in any context.
    #[allow(dead_code, reason = "the host module's")]
    pub(crate) fn clear(&self) {
        // SAFETY: By the type invariant the timer is initialised.
        unsafe { bindings::hrtimer_try_to_cancel(self.timer.get()) };
    }

    /// # Safety
    ///
    /// Only called by the timer whose function it is.
    unsafe extern "C" fn run(timer: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        // SAFETY: By the type invariant `timer` is the first field of a `Self`, which is pinned
        // and alive: dropping it cancels the timer and waits for this function.
        let this = unsafe { &*timer.cast::<Self>() };

        T::expired(this);

        // The handler has started the timer itself if there is another deadline; asking for a
        // restart here would race with a deadline set on another CPU.
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }
}

impl<T: DeadlineHandler> Deref for DeadlineTimer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

#[pinned_drop]
impl<T: DeadlineHandler> PinnedDrop for DeadlineTimer<T> {
    fn drop(self: Pin<&mut Self>) {
        // A handler that is running may set its next deadline: `hrtimer_cancel()` waits for it, and
        // then cancels that.
        //
        // SAFETY: By the type invariant the timer is initialised. Nobody else can start it: we
        // have the only reference.
        unsafe { bindings::hrtimer_cancel(self.timer.get()) };
    }
}
