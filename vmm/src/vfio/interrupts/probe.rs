//! Finds a device's MSI and MSI-X capabilities. A capability that cannot be emulated is logged and hidden from the
//! guest.

use std::fmt::Display;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use vm_msi::kvm::KvmRouter;
use vm_msi::msi::{MsiLayout, VectorMasking};
use vm_msi::msix::layout::CAPABILITY_BYTES;
use vm_msi::msix::{Layout, Window};
use vm_msi::vfio::{MsixFileOffsets, VfioMsi, VfioMsix};
use vm_msi::{DeviceBudget, MsiFunction, MsixFunction};

use super::bars::MsixBars;
use super::{Emulated, Interrupts};
use crate::pci::BAR_COUNT;
use crate::vfio::capabilities::{self, id};
use crate::vfio::region::Region;
use crate::vfio::sysfs::HostAddress;

/// A host function: its descriptor, configuration space and regions.
#[derive(Clone, Copy, Debug)]
pub struct HostFunction<'a> {
    /// Its address, for messages.
    pub address: HostAddress,
    /// Its descriptor.
    pub file: &'a File,
    /// Its configuration space.
    pub config: &'a Region,
    /// The contents of its configuration space.
    pub registers: &'a [u8],
    /// The regions of its BARs.
    pub regions: &'a [Option<Region>; BAR_COUNT],
}

/// How long an unused vector stays attached. Drivers that reconfigure their queues or restart an interface free and
/// request their vectors within this time.
pub const RELEASE_DELAY: Duration = Duration::from_millis(500);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Interrupts {
    /// Finds the function's interrupt capabilities. They share the device's budget of host vectors.
    #[must_use]
    pub fn probe(host: HostFunction<'_>, router: &Arc<KvmRouter>, budget: &Arc<DeviceBudget>) -> Self {
        let mut interrupts = Self::default();
        host.try_capability(id::MSI, "MSI", |at| {
            let (function, bytes) = host.msi(at, router)?;
            let function = function.with_budget(Arc::clone(budget));
            interrupts.capabilities.push(Emulated {
                id: id::MSI,
                name: "msi",
                bytes,
                vectors: Arc::new(function),
            });
            Ok(())
        });
        host.try_capability(id::MSIX, "MSI-X", |at| {
            let (function, bytes) = host.msix(at, router)?;
            let function = Arc::new(function.with_budget(Arc::clone(budget)));
            let vectors = Arc::clone(&function) as _;
            interrupts.capabilities.push(Emulated { id: id::MSIX, name: "msix", bytes, vectors });
            interrupts.msix = Some(MsixBars::new(function));
            Ok(())
        });
        interrupts
    }
}

impl HostFunction<'_> {
    /// The host vectors of its MSI-X, for a user that does not expose the capability to a guest.
    ///
    /// # Errors
    /// The function has no usable MSI-X.
    pub fn msix_vectors(&self) -> Result<VfioMsix, BoxError> {
        let at = capabilities::find(self.registers, id::MSIX).ok_or("it has no MSI-X")?;
        self.msix_backend(at).map(|(_, backend)| backend)
    }

    fn try_capability(&self, id: u8, name: &str, take_over: impl FnOnce(u16) -> Result<(), BoxError>) {
        let Some(at) = capabilities::find(self.registers, id) else {
            return;
        };
        if let Err(why) = take_over(at) {
            let why: &dyn Display = &why;
            tracing::warn!("device {}: its {name} is hidden from the guest: {why}", self.address);
        }
    }

    /// The function for the MSI capability at `at`, and the capability's bytes.
    fn msi(&self, at: u16, router: &Arc<KvmRouter>) -> Result<(MsiFunction, Range<u16>), BoxError> {
        let own = MsiLayout::parse(*self.capability(at)?)?;
        let pending = (own.masking() == VectorMasking::Present).then(|| {
            let pending = at.saturating_add(own.bytes()).saturating_sub(PENDING_BYTES);
            self.config.file_offset().saturating_add(pending.into())
        });
        // The device has just been opened: INTx, MSI and MSI-X are disabled.
        let messages = VfioMsi::probe_messages(self.file)?;
        let control = self.config.file_offset().saturating_add(at.saturating_add(MESSAGE_CONTROL).into());
        let backend = VfioMsi::new(self.file.try_clone()?, messages, pending)?.with_message_control(control);
        let layout = MsiLayout::new(backend.messages(), own.address(), own.masking());
        let bytes = at..at.saturating_add(layout.bytes());
        Ok((MsiFunction::try_new(layout, router.clone(), backend)?, bytes))
    }

    /// The function for the MSI-X capability at `at`, and the capability's bytes.
    fn msix(&self, at: u16, router: &Arc<KvmRouter>) -> Result<(MsixFunction, Range<u16>), BoxError> {
        let (layout, backend) = self.msix_backend(at)?;
        let bytes = at..at.saturating_add(u16::try_from(CAPABILITY_BYTES)?);
        let function = MsixFunction::try_new(layout, router.clone(), backend)?;
        function.set_release_delay(RELEASE_DELAY);
        Ok((function, bytes))
    }

    fn msix_backend(&self, at: u16) -> Result<(Layout, VfioMsix), BoxError> {
        let layout = Layout::parse(self.capability(at)?)?;
        let offsets = MsixFileOffsets {
            pba: self.file_offset(layout.pba())?,
            table: Some(self.file_offset(layout.table())?),
            message_control: Some(
                self.config.file_offset().saturating_add(at.saturating_add(MESSAGE_CONTROL).into()),
            ),
        };
        Ok((layout, VfioMsix::new(self.file.try_clone()?, offsets)?))
    }

    fn capability<const N: usize>(&self, at: u16) -> Result<&[u8; N], BoxError> {
        let bytes = self.registers.get(usize::from(at)..).and_then(|bytes| bytes.first_chunk());
        bytes.ok_or_else(|| "it reaches over the end of configuration space".into())
    }

    /// File offset of a window, which must lie in its BAR's region.
    fn file_offset(&self, window: &Window) -> Result<u64, BoxError> {
        let bar = window.bar.index();
        let region = self.regions.get(usize::from(bar)).and_then(Option::as_ref);
        region
            .filter(|region| window.bytes.end <= region.size())
            .map(|region| region.file_offset().saturating_add(window.bytes.start))
            .ok_or_else(|| format!("bytes {:#x?} lie outside of BAR {bar}", window.bytes).into())
    }
}

/// Size of the Pending Bits register, the last one of the capability (PCIe r6 §7.7.1.8).
const PENDING_BYTES: u16 = 4;
/// Offset of Message Control in the MSI-X capability (PCIe r6 §7.7.2.2).
const MESSAGE_CONTROL: u16 = 2;
