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
use crate::vfio::quirks::Identity;
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
        let bytes = self.capability_bytes(at, layout.bytes())?;
        Ok((MsiFunction::try_new(layout, router.clone(), backend)?, bytes))
    }

    /// The function for the MSI-X capability at `at`, and the capability's bytes.
    fn msix(&self, at: u16, router: &Arc<KvmRouter>) -> Result<(MsixFunction, Range<u16>), BoxError> {
        let (layout, backend) = self.msix_backend(at)?;
        let bytes = self.capability_bytes(at, u16::try_from(CAPABILITY_BYTES)?)?;
        let function = MsixFunction::try_new(layout, router.clone(), backend)?;
        function.set_release_delay(RELEASE_DELAY);
        Ok((function, bytes))
    }

    fn msix_backend(&self, at: u16) -> Result<(Layout, VfioMsix), BoxError> {
        let layout = self.msix_layout(at)?;
        let offsets = MsixFileOffsets {
            pba: self.file_offset(layout.pba())?,
            table: Some(self.file_offset(layout.table())?),
            message_control: Some(
                self.config.file_offset().saturating_add(at.saturating_add(MESSAGE_CONTROL).into()),
            ),
        };
        Ok((layout, VfioMsix::new(self.file.try_clone()?, offsets)?))
    }

    /// The layout of the MSI-X capability at `at`. A known device's pending bits are moved into their BAR.
    fn msix_layout(&self, at: u16) -> Result<Layout, BoxError> {
        let layout = Layout::parse(self.capability(at)?)?;
        if self.file_offset(layout.pba()).is_ok() {
            return Ok(layout);
        }
        let Some(offset) = Identity::of(self.registers).and_then(Identity::pba_offset) else {
            return Ok(layout);
        };
        tracing::debug!("device {}: its MSI-X pending bits are at {offset:#x}", self.address);
        let table = (layout.table().bar, u32::try_from(layout.table().bytes.start)?);
        Ok(Layout::new(layout.size(), table, (layout.pba().bar, offset))?)
    }

    fn capability<const N: usize>(&self, at: u16) -> Result<&[u8; N], BoxError> {
        let bytes = self.registers.get(usize::from(at)..).and_then(|bytes| bytes.first_chunk());
        bytes.ok_or_else(|| "it reaches over the end of configuration space".into())
    }

    /// The bytes of a capability, which must end before the next one of the list begins.
    fn capability_bytes(&self, at: u16, len: u16) -> Result<Range<u16>, BoxError> {
        let room = capabilities::room(self.registers, at).end;
        let bytes = at..at.saturating_add(len);
        if bytes.end <= room {
            Ok(bytes)
        } else {
            Err(format!("its bytes {bytes:#x?} run over {room:#x}, where the next capability begins").into())
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The pending bits of a device whose MSI-X has 8 vectors, with its table at 0 and the pending bits at 0x8000 of BAR
    /// 4. Or why it has none.
    fn pending_bits(vendor: u16, device: u16, bar_size: u64) -> Result<Range<u64>, String> {
        let file = Arc::new(File::open("/dev/null").unwrap());
        let config = Region::of_file(&file, 0, 4096);
        let mut registers = vec![0; 4096];
        registers[..2].copy_from_slice(&vendor.to_le_bytes());
        registers[2..4].copy_from_slice(&device.to_le_bytes());
        registers[6] = 0x10;
        registers[0x34] = 0x60;
        registers[0x60..0x6c].copy_from_slice(&[0x11, 0, 7, 0, 4, 0, 0, 0, 4, 0x80, 0, 0]);
        let mut regions = [const { None }; BAR_COUNT];
        regions[4] = Some(Region::of_file(&file, 0, bar_size));
        let address = HostAddress::parse("01:00.0").unwrap();
        let function =
            HostFunction { address, file: &file, config: &config, registers: &registers, regions: &regions };
        let layout = function.msix_layout(0x60).map_err(|error| error.to_string())?;
        function.file_offset(layout.pba()).map_err(|error| error.to_string())?;
        assert_eq!(layout.table().bytes, 0..0x80);
        Ok(layout.pba().bytes.clone())
    }

    #[test]
    fn pending_bits_outside_of_their_bar_move_if_the_device_is_known() {
        assert_eq!(pending_bits(0x1425, 0x5803, 0x2000), Ok(0x1000..0x1008));
        let why = pending_bits(0x1234, 0x0001, 0x2000).unwrap_err();
        assert_eq!(why, "bytes 0x8000..0x8008 lie outside of BAR 4");
    }

    #[test]
    fn pending_bits_inside_of_their_bar_stay_where_they_are() {
        assert_eq!(pending_bits(0x1425, 0x5803, 0x10000), Ok(0x8000..0x8008));
        assert_eq!(pending_bits(0x1234, 0x0001, 0x10000), Ok(0x8000..0x8008));
    }

    #[test]
    fn pending_bits_that_are_outside_after_the_move_are_refused() {
        assert!(pending_bits(0x1425, 0x5803, 0x1000).is_err());
        assert!(pending_bits(0x1425, 0x5803, 0x1004).is_err());
    }

    #[test]
    fn an_interrupt_capability_that_runs_into_the_next_one_is_refused() {
        let file = Arc::new(File::open("/dev/null").unwrap());
        let config = Region::of_file(&file, 0, 256);
        let mut registers = vec![0; 256];
        registers[6] = 0x10;
        registers[0x34] = 0x40;
        registers[0x40..0x44].copy_from_slice(&[5, 0x50, 0x80, 1]);
        registers[0x50..0x52].copy_from_slice(&[1, 0]);
        let regions = [const { None }; BAR_COUNT];
        let address = HostAddress::parse("01:00.0").unwrap();
        let function =
            HostFunction { address, file: &file, config: &config, registers: &registers, regions: &regions };
        assert_eq!(function.capability_bytes(0x40, 16).unwrap(), 0x40..0x50);
        let why = function.capability_bytes(0x40, 24).unwrap_err().to_string();
        assert_eq!(why, "its bytes 0x40..0x58 run over 0x50, where the next capability begins");
        assert!(function.capability_bytes(0x50, 0xb0).is_ok());
        assert!(function.capability_bytes(0x50, 0xb1).is_err(), "over the end of the list's area");
    }
}
