// SPDX-License-Identifier: GPL-2.0

//! A spinlock that may be taken in any context: it disables interrupts of its CPU while it is held.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::{
    bindings,
    ffi::{
        c_char,
        c_ulong, //
    },
    sync::lock::{
        Backend,
        Guard,
        Lock, //
    }, //
};

use super::shim;

/// A spinlock taken with `spin_lock_irqsave()`.
///
/// For data shared with interrupt handlers, timers and wake-up functions. The holder may not sleep.
pub(crate) type IrqLock<T> = Lock<T, IrqLockBackend>;

/// A guard of an [`IrqLock`]: dropping it restores the interrupt state of before.
pub(crate) type IrqGuard<'a, T> = Guard<'a, T, IrqLockBackend>;

/// The [`Backend`] of [`IrqLock`].
pub(crate) struct IrqLockBackend;

// SAFETY: The underlying `spinlock_t` ensures mutual exclusion; `relock` is the default one, which
// uses the same `lock`.
unsafe impl Backend for IrqLockBackend {
    type State = bindings::spinlock_t;
    type GuardState = c_ulong;

    unsafe fn init(ptr: *mut Self::State, name: *const c_char, key: *mut bindings::lock_class_key) {
        // SAFETY: `ptr` is valid for writes, `name` and `key` live forever, as the trait requires.
        unsafe { bindings::__spin_lock_init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> c_ulong {
        // SAFETY: `ptr` is an initialised spinlock, as the trait requires.
        unsafe { shim::shim_spin_lock_irqsave(ptr) }
    }

    unsafe fn try_lock(ptr: *mut Self::State) -> Option<c_ulong> {
        let mut flags = 0;

        // SAFETY: `ptr` is an initialised spinlock, as the trait requires; `flags` is ours.
        let taken = unsafe { shim::shim_spin_trylock_irqsave(ptr, &mut flags) };

        (taken != 0).then_some(flags)
    }

    unsafe fn unlock(ptr: *mut Self::State, guard_state: &c_ulong) {
        // SAFETY: The caller owns the lock, and `guard_state` is what `lock` returned to it.
        unsafe { shim::shim_spin_unlock_irqrestore(ptr, *guard_state) }
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // Without lockdep it is a call of a function that does nothing.
        if cfg!(CONFIG_LOCKDEP) {
            // SAFETY: `ptr` is an initialised spinlock, as the trait requires.
            unsafe { bindings::spin_assert_is_held(ptr) }
        }
    }
}

/// That interrupts are off on this CPU.
///
/// # Invariants
///
/// They are, as long as this is there.
pub(crate) struct IrqsOff {
    _not_send: PhantomData<*mut ()>,
}

impl IrqsOff {
    /// # Safety
    ///
    /// Interrupts are off on this CPU, and stay so for as long as what is returned is there.
    pub(super) unsafe fn new() -> Self {
        // INVARIANT: As the caller promises.
        Self {
            _not_send: PhantomData,
        }
    }
}

/// Takes a lock as [`Lock::lock`] does, where interrupts are off anyway. That is less work.
#[inline]
pub(crate) fn lock_with_irqs_off<'a, T>(
    lock: &'a IrqLock<T>,
    _irqs: &'a IrqsOff,
) -> IrqGuard<'a, T> {
    // The state is the first field of a `Lock`, which is `repr(C)`.
    let state = ptr::from_ref(lock)
        .cast::<bindings::spinlock_t>()
        .cast_mut();

    // SAFETY: It is initialised, as there is a `Lock`, and opaque, so it may be written to.
    unsafe { shim::shim_spin_lock(state) };
    // SAFETY: The lock was just acquired. To restore the interrupt flags from 0 leaves interrupts
    // off, which by the invariant of `_irqs`, that the guard does not outlive, they are anyway.
    unsafe { Guard::new(lock, 0) }
}

/// Creates an initialiser of an [`IrqLock`] with a lock class of its own.
macro_rules! new_irq_lock {
    ($inner:expr, $name:literal) => {
        $crate::abstractions::irq_lock::IrqLock::new($inner, c_str!($name), static_lock_class!())
    };
}
pub(crate) use new_irq_lock;
