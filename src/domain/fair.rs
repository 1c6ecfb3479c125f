//! A mutex that hands itself to the threads that wait for it in turn.
//!
//! A thread that releases a plain mutex and takes it again at once would keep every other thread out: a thread that binds
//! vectors 16 at a time could starve the vCPUs. Here a thread that waits holds a second lock meanwhile. A thread that takes the
//! mutex by [`FairMutex::lock_in_turn`] queues behind it.
//!
//! A thread must not lock a mutex that it holds: a backend or a router that calls its own function back would deadlock. Debug
//! builds panic instead.

use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;

use crate::lock::Mutex;

/// The mutex. It is not poisoned by a panic: see `lock.rs`.
#[derive(Debug)]
pub(super) struct FairMutex<T> {
    value: Mutex<T>,
    /// The thread that waits for the value next holds this.
    turn: Mutex<()>,
}

impl<T> FairMutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), turn: Mutex::default() }
    }

    /// Takes the mutex at once where it is free.
    pub(super) fn lock(&self) -> FairGuard<'_, T> {
        let held = reentry::Held::new(self.address());
        match self.value.try_lock() {
            Some(value) => FairGuard { value, _held: held },
            None => self.wait(held),
        }
    }

    /// Takes the mutex after the threads that wait for it now.
    pub(super) fn lock_in_turn(&self) -> FairGuard<'_, T> {
        self.wait(reentry::Held::new(self.address()))
    }

    #[cold]
    fn wait(&self, held: reentry::Held) -> FairGuard<'_, T> {
        let _turn = self.turn.lock();
        FairGuard { value: self.value.lock(), _held: held }
    }

    pub(super) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

/// Access to the value.
pub(super) struct FairGuard<'a, T> {
    value: MutexGuard<'a, T>,
    _held: reentry::Held,
}

impl<T> Deref for FairGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for FairGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// Debug builds know which mutexes the thread holds.
#[cfg(debug_assertions)]
mod reentry {
    use std::cell::RefCell;

    thread_local! {
        static HELD: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) struct Held(usize);

    impl Held {
        pub(super) fn new(address: usize) -> Self {
            HELD.with_borrow_mut(|held| {
                debug_assert!(
                    !held.contains(&address),
                    "a backend, router or stage called back into the domain that called it"
                );
                held.push(address);
            });
            Self(address)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            // The thread may be ending.
            let _ = HELD.try_with(|held| held.borrow_mut().retain(|address| *address != self.0));
        }
    }
}

#[cfg(not(debug_assertions))]
mod reentry {
    pub(super) struct Held;

    impl Held {
        pub(super) fn new(_: usize) -> Self {
            Self
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_that_relocks_in_turn_lets_the_waiting_thread_first() {
        let mutex = FairMutex::new(());
        let (waiting, done) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            let first = mutex.lock();
            scope.spawn(|| {
                waiting.store(1, Ordering::SeqCst);
                let _guard = mutex.lock();
                done.store(1, Ordering::SeqCst);
            });
            while waiting.load(Ordering::SeqCst) == 0 || mutex.turn.try_lock().is_some() {
                thread::yield_now();
            }
            drop(first);
            drop(mutex.lock_in_turn());
            assert_eq!(done.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn a_panic_does_not_keep_other_threads_out() {
        let mutex = FairMutex::new(7);
        let panics = || {
            let _guard = mutex.lock();
            panic!("as told");
        };
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(*mutex.lock(), 7);
    }

    #[test]
    #[cfg(debug_assertions)]
    fn a_thread_that_locks_what_it_holds_is_told() {
        let mutex = FairMutex::new(());
        let again = || {
            let _first = mutex.lock();
            let _second = mutex.lock();
        };
        assert!(catch_unwind(AssertUnwindSafe(again)).is_err());
        drop(mutex.lock());
    }
}
