//! A remapping stage with every function behind it, so that an invalidation forgets none.
//!
//! Owns the list, and no function: each is known as long as someone else has it. Locking: the list's lock is outermost
//! and held for no call, so that functions may come and go while an invalidation runs.

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

/// What is told of an invalidation.
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

    /// A function behind the unit, which sends as `requester`: `make` is given its router, in front of `router`.
    ///
    /// # Errors
    /// That of `make`; there is no function then.
    pub fn admit<F: Invalidate + 'static, E>(
        &self,
        router: Arc<dyn Router>,
        requester: RequesterId,
        make: impl FnOnce(Arc<Remapped>) -> Result<F, E>,
    ) -> Result<Arc<F>, E> {
        let remapped = Remapped::new(router, self.stage.clone(), requester);
        let function = Arc::new(make(Arc::new(remapped))?);
        // Before anybody else has it, so before its guest can have it send anything.
        self.add(&function);
        Ok(function)
    }

    /// One more function behind the unit, where something else stands between: call it before its guest can reach it.
    pub fn add<F: Invalidate + 'static>(&self, function: &Arc<F>) {
        let function: Arc<dyn Invalidate> = function.clone();
        let mut functions = self.functions.lock();
        functions.retain(|function| function.strong_count() > 0);
        functions.push(Arc::downgrade(&function));
    }

    /// The guest has said that entries changed: the stage forgets, by `forget`, and then every function compares again.
    /// Call it with no lock held that an access to one of them takes.
    ///
    /// Interrupts meanwhile: none is lost; when this has returned, no vector of any function delivers by what was
    /// forgotten.
    pub fn invalidate(&self, forget: impl FnOnce(&S)) {
        forget(&self.stage);
        // One that comes from now on asks a stage that has forgotten.
        let functions: Vec<_> = self.functions.lock().iter().filter_map(Weak::upgrade).collect();
        functions.iter().for_each(|function| function.invalidate());
    }
}

impl<S: fmt::Debug> fmt::Debug for Unit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unit").field("stage", &self.stage).finish_non_exhaustive()
    }
}
