//! One passed-through function on the bus.
//!
//! Owns the device's descriptor and all host calls for it, except for interrupts ([`super::interrupts`]). One
//! lock protects the guest's configuration space. It is held during the host calls that follow a write, and during a
//! reset: a function in reset answers when the reset is done. BAR accesses do not take it.
//!
//! [`release`](Function::release) detaches the interrupts, disables bus mastering and resets the device if possible.
//! Dropping the device releases it, too.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};

use super::container::Container;
use super::guest_config::{GuestConfig, GuestReset, HostReset};
use super::interrupts::Interrupts;
use super::intx::Intx;
use super::ioctl;
use super::mapping::BarMapping;
use super::region::Region;
use super::rom::Rom;
use super::sysfs::HostAddress;
use crate::error::Result;
use crate::interrupts::Controllers;
use crate::memory::Access;
use crate::pci::bar::COMMAND;
use crate::pci::{
    BAR_COUNT, BarAddresses, DECODER_COUNT, Decoding, DeviceFunction, Function, InterruptPin, ROM_INDEX,
};

/// One BAR: the host's region and its mapping into the guest.
#[derive(Debug)]
pub(super) struct DeviceBar {
    pub(super) region: Region,
    /// `None` for an I/O BAR.
    pub(super) mapping: Option<BarMapping>,
    trapped_reads: AtomicU64,
    trapped_writes: AtomicU64,
}

impl DeviceBar {
    pub(super) fn new(region: Region, mapping: Option<BarMapping>) -> Self {
        Self { region, mapping, trapped_reads: AtomicU64::new(0), trapped_writes: AtomicU64::new(0) }
    }

    fn report(&self, index: usize) -> Value {
        let reached = |access| self.mapping.as_ref().map_or(0, |mapping| mapping.bytes(access));
        json!({
            "bar": index,
            "bytes": self.region.size(),
            "mapped_bytes": reached(Access::ReadWrite).min(self.region.size()),
            "read_only_bytes": reached(Access::ReadOnly),
            "trapped_reads": self.trapped_reads.load(Ordering::Relaxed),
            "trapped_writes": self.trapped_writes.load(Ordering::Relaxed),
            "refused_accesses": self.region.failures(),
        })
    }
}

/// The expansion ROM and its mapping into the guest.
#[derive(Debug)]
pub(super) struct DeviceRom {
    pub(super) rom: Rom,
    /// `None` in a test.
    pub(super) mapping: Option<BarMapping>,
}

/// A passed-through function.
#[derive(Debug)]
pub struct Device {
    pub(super) address: HostAddress,
    /// The name that a person has given it.
    pub(super) id: Option<String>,
    pub(super) reset: HostReset,
    pub(super) config: Mutex<GuestConfig>,
    pub(super) host_config: Region,
    // Drop order: interrupts, mappings in the guest, the device, its container.
    pub(super) interrupts: Interrupts,
    pub(super) bars: [Option<DeviceBar>; BAR_COUNT],
    pub(super) rom: Option<DeviceRom>,
    pub(super) file: Arc<File>,
    /// Keeps the container open until the device is closed. A test has none.
    pub(super) _container: Option<Arc<Container>>,
    pub(super) resets: AtomicU64,
    pub(super) released: AtomicBool,
}

impl Device {
    /// The device's address on the host.
    #[must_use]
    pub fn address(&self) -> HostAddress {
        self.address
    }

    /// Its interrupts.
    #[must_use]
    pub fn interrupts(&self) -> &Interrupts {
        &self.interrupts
    }

    /// Connects INTx, if the device has it: the guest sees `pin`, and the function is at `place`. Called before the guest runs.
    ///
    /// # Errors
    /// [`Error::Host`](crate::error::Error::Host): the process has no descriptor left.
    pub(super) fn connect_intx(
        &self,
        pin: InterruptPin,
        place: DeviceFunction,
        interrupts: &Controllers,
    ) -> Result<()> {
        let gsi = pin.gsi(place);
        let calls = Box::new(Arc::clone(&self.file));
        let intx = Intx::new(self.address, pin, (gsi, interrupts.level_line(gsi)), calls)?;
        self.config().set_interrupt_line(u8::try_from(gsi).unwrap_or(u8::MAX));
        self.interrupts.connect_intx(intx);
        Ok(())
    }

    fn config(&self) -> MutexGuard<'_, GuestConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Detaches the interrupts, resets the device if possible, and resets the guest's registers.
    fn reset(&self, config: &mut GuestConfig) {
        let reset_device = || {
            if self.reset == HostReset::Supported
                && let Err(error) = reset_with_retry(&self.file)
            {
                tracing::warn!("device {} cannot be reset: {error}", self.address);
            }
        };
        self.interrupts.reset(reset_device);
        for (offset, bytes) in config.reset() {
            self.host_config.write((*offset).into(), bytes);
        }
        // VFIO restores the host's command register after a reset, with bus mastering. Write it again.
        self.write_host_command(config);
    }

    /// Enables decoding on the host, so that BAR mappings work. Bus mastering stays disabled.
    pub(super) fn start(&self) {
        self.write_host_command(&self.config());
    }

    fn write_host_command(&self, config: &GuestConfig) {
        self.host_config.write(COMMAND.into(), &config.host_command().to_le_bytes());
    }

    fn bar(&self, bar: usize) -> Option<&DeviceBar> {
        self.bars.get(bar)?.as_ref()
    }
}

impl Function for Device {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        {
            let config = self.config();
            if config.reads_device(offset, data.len()) {
                self.host_config.read(offset.into(), data);
            }
            config.merge(offset, data);
        }
        self.interrupts.read_config(offset, data);
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        {
            let mut config = self.config();
            let written = config.write(offset, data);
            for (offset, bytes) in &written.forwarded {
                self.host_config.write((*offset).into(), bytes);
            }
            if let Some(reset) = written.reset {
                let cause = match reset {
                    GuestReset::FunctionLevel => "initiates a function level reset",
                    GuestReset::PowerOn => "moves the function from D3hot to D0",
                };
                tracing::debug!("device {}: the guest {cause}", self.address);
                self.resets.fetch_add(1, Ordering::Relaxed);
                self.reset(&mut config);
                return;
            }
            if written.command {
                self.write_host_command(&config);
            }
        }
        self.interrupts.write_config(offset, data);
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        if let (ROM_INDEX, Some(DeviceRom { rom, .. })) = (bar, &self.rom) {
            rom.read(offset, data);
            return;
        }
        match self.bar(bar) {
            Some(DeviceBar { region, trapped_reads, .. }) => {
                trapped_reads.fetch_add(1, Ordering::Relaxed);
                self.interrupts.read_bar(bar, offset, data, |offset, data| region.read(offset, data));
            }
            None => data.fill(0xff),
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        if let Some(DeviceBar { region, trapped_writes, .. }) = self.bar(bar) {
            trapped_writes.fetch_add(1, Ordering::Relaxed);
            self.interrupts.write_bar(bar, offset, data, |offset, data| region.write(offset, data));
        }
    }

    fn decoding(&self) -> Decoding {
        self.config().decoding()
    }

    fn update_bars(&self, addresses: &BarAddresses) {
        for (bar, place) in self.bars.iter().zip(addresses) {
            if let Some(DeviceBar { mapping: Some(mapping), .. }) = bar {
                mapping.set_address(*place);
            }
        }
        if let Some(DeviceRom { mapping: Some(mapping), .. }) = &self.rom {
            mapping.set_address(addresses.get(ROM_INDEX).copied().flatten());
        }
    }

    fn release(&self) {
        if self.released.swap(true, Ordering::Relaxed) {
            return;
        }
        self.update_bars(&[None; DECODER_COUNT]);
        let mut config = self.config();
        config.release_intx();
        self.interrupts.release_intx();
        self.reset(&mut config);
        tracing::debug!("device {} is released", self.address);
    }

    fn report(&self) -> Option<Value> {
        let mut ids = [0; 4];
        self.host_config.read(0, &mut ids);
        let [vendor_low, vendor_high, device_low, device_high] = ids;
        let bars = self.bars.iter().enumerate();
        let bars = bars.filter_map(|(index, bar)| Some(bar.as_ref()?.report(index)));
        let mut report = json!({
            "host_address": self.address.to_string(),
            "vendor": format!("{:04x}", u16::from_le_bytes([vendor_low, vendor_high])),
            "device": format!("{:04x}", u16::from_le_bytes([device_low, device_high])),
            "bars": bars.collect::<Vec<_>>(),
            "guest_resets": self.resets.load(Ordering::Relaxed),
            "refused_config_accesses": self.host_config.failures(),
        });
        if let Some(fields) = report.as_object_mut() {
            fields.extend(self.id.iter().map(|id| ("id".to_owned(), Value::from(id.as_str()))));
            fields.extend(self.interrupts.report(self.address));
        }
        Some(report)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.release();
    }
}

/// VFIO_DEVICE_RESET. Retries while the host holds the device's lock (EAGAIN), for up to half a second.
///
/// # Errors
/// The host's error.
pub fn reset_with_retry(device: &File) -> std::io::Result<()> {
    const TRIES: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(10);
    let mut result = ioctl::reset(device);
    for _ in 1..TRIES {
        match &result {
            Err(error) if Errno::from_io_error(error) == Some(Errno::AGAIN) => std::thread::sleep(PAUSE),
            _ => break,
        }
        result = ioctl::reset(device);
    }
    result
}
