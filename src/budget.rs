//! Budgets: the most host vectors of one device, and of all devices of a VM together.
//!
//! A host vector is an eventfd and a host interrupt with its CPU vector. A domain takes one share of its
//! [`DeviceBudget`] for each host vector. A vector whose share is refused is held. It loses no interrupt, and
//! [`retry`](crate::InterruptFunction::retry) requests its host vector again. The descriptors that a host
//! without dynamic MSI-X reserves for a whole table take no CPU vectors and are not counted.
//!
//! A [`VmBudget`] admits devices. It may promise a device some of its host vectors. The device can then
//! always have these, whatever other devices use.
//!
//! Invariants: a share is a field of its vector's state, so `used` is always the number of host vectors.
//! Growth never takes `used` above a limit of the device or of the VM. A limit that is set below `used` takes
//! nothing away. It stops growth, and freed vectors that still have a host vector are released at the next
//! retry.
//!
//! Locking: the order is domain, device budget, VM budget. Each lock is held for a few instructions.

mod account;

use crate::lock::Mutex;
use std::fmt;
use std::sync::Arc;

use account::Account;
pub use account::BudgetReport;

/// The most host vectors that all devices of a VM may have together.
#[derive(Debug)]
pub struct VmBudget {
    account: Mutex<Account>,
}

/// The most host vectors that one device may have.
///
/// Several functions may share it, such as the MSI and the MSI-X of one device.
#[derive(Debug)]
pub struct DeviceBudget {
    /// The VM that admitted the device, if any.
    vm: Option<Arc<VmBudget>>,
    /// How many host vectors of the VM are reserved for this device, used or not.
    promised: u32,
    account: Mutex<Account>,
}

/// The owner of the budget that refused a host vector.
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
    /// The owner of the budget.
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
        /// Host vectors that were to be promised.
        promised: u32,
        /// Host vectors that are used, or promised to other devices.
        used: u32,
        /// The VM's limit.
        limit: u32,
    },
    /// The promise is higher than the device's own limit.
    #[error("{promised} host vectors cannot be promised to a device that may have {limit}")]
    BeyondLimit {
        /// Host vectors that were to be promised.
        promised: u32,
        /// The device's limit.
        limit: u32,
    },
}

impl VmBudget {
    /// A VM whose devices may have `limit` host vectors together. `None` means no limit.
    pub fn new(limit: Option<u32>) -> Arc<Self> {
        Arc::new(Self { account: Mutex::new(Account::new(limit)) })
    }

    /// Admits a device, which may have up to `limit` host vectors and always `promised` of them. With a
    /// `limit` of `None`, only the VM limits the device.
    ///
    /// The promise returns to the VM when the returned budget and all its shares are dropped.
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
        // A refused admission is not counted as a refusal, because no vector waits for it.
        if let Some((used, limit)) = account.beyond(promised) {
            return Err(AdmissionError::NoRoom { promised, used, limit });
        }
        account.add(promised);
        drop(account);
        let vm = Some(Arc::clone(self));
        Ok(Arc::new(DeviceBudget { vm, promised, account: Mutex::new(Account::new(limit)) }))
    }

    /// Sets the limit. Vectors keep the host vectors that they have, and promises stay.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.account.lock().set_limit(limit);
    }

    /// The budget now.
    pub fn report(&self) -> BudgetReport {
        self.account.lock().report(0)
    }
}

impl DeviceBudget {
    /// The most host vectors of a function without a budget of its own: the size of the largest MSI-X table.
    /// It bounds an IMS, which may have 65,536 slots.
    pub const DEFAULT_LIMIT: u32 = 2048;

    /// The budget of a device that no [`VmBudget`] limits. `None` means no limit.
    pub fn new(limit: Option<u32>) -> Arc<Self> {
        Arc::new(Self { vm: None, promised: 0, account: Mutex::new(Account::new(limit)) })
    }

    /// The default budget of a function with `capacity` vectors: `capacity`, and at most
    /// [`DeviceBudget::DEFAULT_LIMIT`].
    pub(crate) fn by_default(capacity: u32) -> Arc<Self> {
        Self::new(Some(capacity.min(Self::DEFAULT_LIMIT)))
    }

    /// Sets the limit. Vectors keep the host vectors that they have, and a promise stays.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.account.lock().set_limit(limit);
    }

    /// The budget now.
    pub fn report(&self) -> BudgetReport {
        self.account.lock().report(self.promised)
    }

    /// Takes the share of one host vector. Dropping the share returns it.
    ///
    /// The device's lock is held until the VM's budget has answered, so other threads see each call as one
    /// step.
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

    /// Whether a vector of this device or of its VM waits for a share, or `used` is above a limit. Freed
    /// vectors are then released before their release delay is over.
    pub(crate) fn is_short(&self) -> bool {
        self.account.lock().is_short() || self.vm.as_ref().is_some_and(|vm| vm.account.lock().is_short())
    }
}

/// Returns the promise to the VM. No share is left, because each share keeps the budget alive.
impl Drop for DeviceBudget {
    fn drop(&mut self) {
        if let Some(vm) = &self.vm {
            vm.account.lock().give(self.promised);
        }
    }
}

/// The share of one host vector. Dropping it returns it.
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
