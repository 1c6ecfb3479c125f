//! Budgets: how many host vectors a device may have at one time, and how many all devices of a VM may have together.
//!
//! A host vector is an eventfd and a host interrupt with its CPU vector. A domain takes one share of its
//! [`DeviceBudget`] for each host vector. A vector whose share is refused is held: it loses no interrupt, and
//! [`retry`](crate::InterruptFunction::retry) requests its host vector again. The descriptors that a host without dynamic MSI-X
//! reserves for a whole table take no CPU vectors and are not counted.
//!
//! A [`VmBudget`] admits devices. It may promise a device some of its host vectors. The device can then always have
//! these, whatever other devices use.
//!
//! Invariants: a share belongs to the state of its vector and ends with that state, so `used` is always the number of
//! host vectors. Growth never takes `used` above a limit, neither a device's nor the VM's. A limit that is set below
//! `used` takes nothing away: it stops growth, and freed vectors that keep a host vector are released at the next retry.
//!
//! Locking: the order is domain, device budget, VM budget. Each lock is held for a few instructions.

mod account;

use crate::lock::Mutex;
use std::fmt;
use std::sync::Arc;

use account::Account;
pub use account::BudgetReport;

/// The host vectors that all devices of a VM may have together.
#[derive(Debug)]
pub struct VmBudget {
    account: Mutex<Account>,
}

/// The host vectors that one device may have.
///
/// Several functions may share it, such as the MSI and the MSI-X of one device.
#[derive(Debug)]
pub struct DeviceBudget {
    /// The VM that admitted the device, if any.
    vm: Option<Arc<VmBudget>>,
    /// How many host vectors of the VM are set aside for this device, used or not.
    promised: u32,
    account: Mutex<Account>,
}

/// Whose budget refused a host vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A [`DeviceBudget`].
    Device,
    /// A [`VmBudget`].
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

/// A budget has no host vector left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {scope}'s budget is used up: {used} host vectors of {limit}")]
pub struct Exhausted {
    /// Whose budget it is.
    pub scope: Scope,
    /// Host vectors in use.
    pub used: u32,
    /// The budget's limit.
    pub limit: u32,
}

/// Why a device cannot be admitted to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionError {
    /// The VM has too few host vectors left for the promise.
    #[error("{promised} host vectors cannot be promised: {used} of the VM's {limit} are used or promised")]
    NoRoom {
        /// Host vectors that the device asked to be promised.
        promised: u32,
        /// Host vectors that are used, or promised to other devices.
        used: u32,
        /// The VM's limit.
        limit: u32,
    },
    /// The promise is higher than the device's own limit.
    #[error("{promised} host vectors cannot be promised to a device that may have {limit}")]
    BeyondLimit {
        /// Host vectors that the device asked to be promised.
        promised: u32,
        /// The device's limit.
        limit: u32,
    },
}

impl VmBudget {
    /// A VM whose devices may have `limit` host vectors together; `None` for no limit.
    pub fn new(limit: Option<u32>) -> Arc<Self> {
        Arc::new(Self { account: Mutex::new(Account::new(limit)) })
    }

    /// Admits a device, which may have up to `limit` host vectors and always `promised` of them.
    ///
    /// The promise goes back to the VM when the returned budget and all its shares are dropped. `None` for `limit` means
    /// that only the VM limits the device.
    ///
    /// # Errors
    /// [`AdmissionError`] if the promise cannot be kept. The VM's budget is then unchanged.
    pub fn admit(
        self: &Arc<Self>,
        promised: u32,
        limit: Option<u32>,
    ) -> Result<Arc<DeviceBudget>, AdmissionError> {
        if let Some(limit) = limit.filter(|limit| *limit < promised) {
            return Err(AdmissionError::BeyondLimit { promised, limit });
        }
        let mut account = self.account.lock();
        // A refused admission does not count as a refusal: no vector waits for it.
        if let Some((used, limit)) = account.beyond(promised) {
            return Err(AdmissionError::NoRoom { promised, used, limit });
        }
        account.add(promised);
        drop(account);
        let vm = Some(Arc::clone(self));
        Ok(Arc::new(DeviceBudget { vm, promised, account: Mutex::new(Account::new(limit)) }))
    }

    /// Sets another limit. Vectors keep the host vectors that they have, and promises stay.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.account.lock().set_limit(limit);
    }

    /// The budget now.
    pub fn report(&self) -> BudgetReport {
        self.account.lock().report(0)
    }
}

impl DeviceBudget {
    /// The most host vectors that a function may have if its embedder gives it no budget: as many as the largest MSI-X
    /// table has entries. It bounds an IMS, which may have 65,536 slots.
    pub const DEFAULT_LIMIT: u32 = 2048;

    /// The budget of a device that no [`VmBudget`] limits; `None` for no limit at all.
    pub fn new(limit: Option<u32>) -> Arc<Self> {
        Arc::new(Self { vm: None, promised: 0, account: Mutex::new(Account::new(limit)) })
    }

    /// The budget of a function of `capacity` vectors whose embedder gives it none: `capacity`, and at most
    /// [`DeviceBudget::DEFAULT_LIMIT`].
    pub(crate) fn by_default(capacity: u32) -> Arc<Self> {
        Self::new(Some(capacity.min(Self::DEFAULT_LIMIT)))
    }

    /// Sets another limit. Vectors keep the host vectors that they have, and a promise stays.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.account.lock().set_limit(limit);
    }

    /// The budget now.
    pub fn report(&self) -> BudgetReport {
        self.account.lock().report(self.promised)
    }

    /// Takes the share of one host vector. It goes back when it is dropped.
    ///
    /// The device's lock is held until the VM has answered, so each call is one step for every other thread.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Share, Exhausted> {
        let exhausted = |scope| move |(used, limit)| Exhausted { scope, used, limit };
        let mut account = self.account.lock();
        account.check().map_err(exhausted(Scope::Device))?;
        if account.used() >= self.promised
            && let Some(vm) = &self.vm
        {
            let mut vm_account = vm.account.lock();
            vm_account.check().map_err(exhausted(Scope::Vm))?;
            vm_account.add(1);
        }
        account.add(1);
        Ok(Share(Arc::clone(self)))
    }

    /// True while a vector of this device or of its VM waits for a share, or `used` is above a limit. Freed vectors are then
    /// released before their release delay is over.
    pub(crate) fn is_short(&self) -> bool {
        self.account.lock().is_short() || self.vm.as_ref().is_some_and(|vm| vm.account.lock().is_short())
    }
}

/// The promise goes back to the VM. No share is left by then: each share keeps the budget alive.
impl Drop for DeviceBudget {
    fn drop(&mut self) {
        if let Some(vm) = &self.vm {
            vm.account.lock().give(self.promised);
        }
    }
}

/// The share of one host vector, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share(Arc<DeviceBudget>);

impl Drop for Share {
    fn drop(&mut self) {
        let DeviceBudget { vm, promised, .. } = &*self.0;
        let mut account = self.0.account.lock();
        account.give(1);
        if account.used() >= *promised
            && let Some(vm) = vm
        {
            vm.account.lock().give(1);
        }
    }
}

#[cfg(test)]
mod tests;
