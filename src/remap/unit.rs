//! A remapping stage together with the functions behind it, so that an invalidation reaches all of them.
//!
//! Owns the list of functions, by weak references. Locking: the list's lock is outermost. No call is made
//! under it, so functions may be added and dropped while an invalidation runs.

use std::fmt;
use std::sync::{Arc, Weak};

use super::{Remapped, Stage};
use crate::domain::Domain;
use crate::function::InterruptFunction;
use crate::interrupt::RequesterId;
use crate::lock::Mutex;
use crate::registers::Registers;
use crate::router::Router;
use crate::sealed::Sealed;

/// A function that an invalidation reaches.
pub trait Invalidate: Sealed + Send + Sync {
    /// See [`InterruptFunction::invalidate`].
    fn invalidate(&self);
}

impl<C: Registers, D: Domain + Send + Sync> Invalidate for InterruptFunction<C, D> {
    fn invalidate(&self) {
        InterruptFunction::invalidate(self);
    }
}

/// A remapping unit: a stage, and the functions whose messages it remaps.
pub struct Unit<S> {
    stage: Arc<S>,
    functions: Mutex<Vec<Weak<dyn Invalidate>>>,
}

impl<S: Stage + 'static> Unit<S> {
    /// A unit with no function behind it.
    pub fn new(stage: Arc<S>) -> Self {
        Self { stage, functions: Mutex::default() }
    }

    /// The stage.
    pub fn stage(&self) -> &Arc<S> {
        &self.stage
    }

    /// Makes a function behind the unit, which sends its messages as `requester`. `make` gets the function's
    /// router, which puts the stage in front of `router`.
    ///
    /// # Errors
    /// The error of `make`. No function is added.
    pub fn admit<F: Invalidate + 'static, E>(
        &self,
        router: Arc<dyn Router>,
        requester: RequesterId,
        make: impl FnOnce(Arc<Remapped>) -> Result<F, E>,
    ) -> Result<Arc<F>, E> {
        let remapped = Remapped::new(router, self.stage.clone(), requester);
        let function = Arc::new(make(Arc::new(remapped))?);
        // Before the caller has the function, so before its guest can make it signal.
        self.add(&function);
        Ok(function)
    }

    /// Adds a function behind the unit, for an embedder with its own router in between. Call it before the
    /// guest can reach the function.
    pub fn add<F: Invalidate + 'static>(&self, function: &Arc<F>) {
        let function: Arc<dyn Invalidate> = function.clone();
        let mut functions = self.functions.lock();
        functions.retain(|function| function.strong_count() > 0);
        functions.push(Arc::downgrade(&function));
    }

    /// Handles an invalidation by the guest: `forget` drops the stage's cached entries, and then each
    /// function compares its vectors again. The caller must hold no lock that an access to one of the
    /// functions takes.
    ///
    /// Interrupts meanwhile: none is lost. When this returns, no vector of any function delivers on a
    /// translation that was dropped.
    pub fn invalidate(&self, forget: impl FnOnce(&S)) {
        forget(&self.stage);
        // A function that is added from now on uses a stage without the old entries.
        let functions: Vec<_> = self.functions.lock().iter().filter_map(Weak::upgrade).collect();
        functions.iter().for_each(|function| function.invalidate());
    }
}

impl<S: fmt::Debug> fmt::Debug for Unit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unit").field("stage", &self.stage).finish_non_exhaustive()
    }
}
