//! Budgets: how many host vectors a device may have at one time, and all devices of a VM together.
//!
//! A host vector is an eventfd, and an interrupt of the host with its CPU vector: what a guest makes its host pay for
//! each vector that it uses. A domain asks at each growth; what it is refused is held, loses nothing, and is tried
//! again by [`retry`](crate::Function::retry). A device may be promised some when it is admitted: these it can always
//! have, whatever its neighbours do. What a host without dynamic MSI-X sets aside for a whole table are descriptors
//! without CPU vectors, and not counted.
//!
//! Invariant: a share is part of the state of the vector that it is for, and ends with it, so what is used is
//! what vectors have, at any time and under any threads. Changing a limit takes nothing away from a guest that uses
//! it: below what is used, it only keeps devices from growing, and has what lingers given back at the next retry.
//!
//! Locking: a device's budget after its domain, the VM's after the device's; both for a few instructions.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The budget of a VM, or of one of its devices.
#[derive(Debug)]
pub struct Budget {
    scope: Scope,
    /// The VM's, of a device's.
    vm: Option<Arc<Budget>>,
    /// So many of the VM's are this device's, used or not.
    promised: u32,
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    limit: Option<u32>,
    used: u32,
    high_water: u32,
    refusals: u64,
    /// Somebody was refused, and since then none was taken, nor given back for whoever waits.
    wanted: bool,
}

/// Whose budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One device's.
    Device,
    /// All devices' of a VM.
    Vm,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Vm => "VM",
        })
    }
}

/// A budget at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BudgetReport {
    /// Host vectors that there may be; `None` for any number.
    pub limit: Option<u32>,
    /// Of a device: so many of the VM's are set aside for it.
    pub promised: u32,
    /// Host vectors that there are; of a VM, with those that are promised and not used.
    pub used: u32,
    /// The most at one time.
    pub high_water: u32,
    /// Times a vector wanted one more and there was none, with each further try. What the VM's budget refuses, counts
    /// there.
    pub refusals: u64,
}

/// No host vector for a device that wants one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {scope}'s budget is used up: {used} host vectors of {limit}")]
pub struct Exhausted {
    /// Whose budget.
    pub scope: Scope,
    /// What is used of it.
    pub used: u32,
    /// Its limit.
    pub limit: u32,
}

/// Why a device cannot be promised what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError {
    /// The VM's budget has no room for it.
    #[error("{promised} host vectors cannot be promised: {used} of the VM's {limit} are used or promised")]
    NoRoom {
        /// What was asked for.
        promised: u32,
        /// What is used, or promised to others.
        used: u32,
        /// The VM's limit.
        limit: u32,
    },
    /// The device's own limit is below.
    #[error("{promised} host vectors cannot be promised to a device that may have {limit}")]
    BeyondLimit {
        /// What was asked for.
        promised: u32,
        /// The device's limit.
        limit: u32,
    },
}

impl Budget {
    /// The budget of a VM; `None` for no limit.
    pub fn of_vm(limit: Option<u32>) -> Arc<Self> {
        let account = Mutex::new(Account { limit, ..Account::default() });
        Arc::new(Self { scope: Scope::Vm, vm: None, promised: 0, account })
    }

    /// Admits a device to a VM: it may have up to `limit` host vectors, and `promised` of them in any case. They go
    /// back to the VM when the budget is dropped.
    ///
    /// # Errors
    /// [`AdmissionError`]; nothing is taken from the VM then.
    pub fn of_device(vm: &Arc<Self>, promised: u32, limit: Option<u32>) -> Result<Arc<Self>, AdmissionError> {
        if let Some(limit) = limit.filter(|limit| *limit < promised) {
            return Err(AdmissionError::BeyondLimit { promised, limit });
        }
        let mut of_vm = vm.account();
        // A device that is not admitted does not wait.
        if let Some((used, limit)) = of_vm.beyond(promised) {
            return Err(AdmissionError::NoRoom { promised, used, limit });
        }
        of_vm.add(promised);
        drop(of_vm);
        let account = Mutex::new(Account { limit, ..Account::default() });
        Ok(Arc::new(Self { scope: Scope::Device, vm: Some(vm.clone()), promised, account }))
    }

    /// Sets another limit. Vectors in use keep what they have, also above it; a promise stays.
    pub fn set_limit(&self, limit: Option<u32>) {
        let mut account = self.account();
        (account.limit, account.wanted) = (limit, false);
    }

    /// The budget now.
    pub fn report(&self) -> BudgetReport {
        let Account { limit, used, high_water, refusals, .. } = *self.account();
        BudgetReport { limit, promised: self.promised, used, high_water, refusals }
    }

    /// One host vector's worth.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Share, Exhausted> {
        let exhausted = |scope| move |(used, limit)| Exhausted { scope, used, limit };
        let mut account = self.account();
        account.check().map_err(exhausted(self.scope))?;
        if account.used >= self.promised
            && let Some(vm) = &self.vm
        {
            let mut vm_account = vm.account();
            vm_account.check().map_err(exhausted(vm.scope))?;
            vm_account.add(1);
        }
        account.add(1);
        Ok(Share(self.clone()))
    }

    /// Whether somebody waits for a share, or more are used than there may be.
    pub(crate) fn is_short(&self) -> bool {
        self.account().is_short() || self.vm.as_ref().is_some_and(|vm| vm.account().is_short())
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was promised goes back to the VM: no share is left, each has kept the budget alive.
impl Drop for Budget {
    fn drop(&mut self) {
        if let Some(vm) = &self.vm {
            vm.account().give(self.promised);
        }
    }
}

impl Account {
    /// What is used of which limit, where so many more would be too many.
    fn beyond(&self, count: u32) -> Option<(u32, u32)> {
        let limit = self.limit.filter(|limit| count > 0 && self.used.saturating_add(count) > *limit)?;
        Some((self.used, limit))
    }

    /// Whether there is one more for somebody who waits where there is none.
    fn check(&mut self) -> Result<(), (u32, u32)> {
        match self.beyond(1) {
            None => Ok(()),
            Some(exhausted) => {
                self.refusals = self.refusals.saturating_add(1);
                self.wanted = true;
                Err(exhausted)
            }
        }
    }

    fn add(&mut self, count: u32) {
        (self.used, self.wanted) = (self.used.saturating_add(count), false);
        self.high_water = self.high_water.max(self.used);
    }

    /// Who waits finds some at its next try. It may also have gone: nobody else makes room for it then.
    fn give(&mut self, count: u32) {
        self.used = self.used.saturating_sub(count);
        self.wanted &= count == 0;
    }

    fn is_short(&self) -> bool {
        self.wanted || self.limit.is_some_and(|limit| self.used > limit)
    }
}

/// One host vector's worth of a budget, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share(Arc<Budget>);

impl Drop for Share {
    fn drop(&mut self) {
        let Budget { vm, promised, .. } = &*self.0;
        let mut account = self.0.account();
        account.give(1);
        if account.used >= *promised
            && let Some(vm) = vm
        {
            vm.account().give(1);
        }
    }
}

#[cfg(test)]
mod tests;
