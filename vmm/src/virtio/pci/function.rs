//! A virtio device as a function on the bus: configuration space, BAR, doorbells.
//!
//! Owns configuration space and its lock, which is held during changes of Bus Master Enable only. The transport owns
//! the registers, the vm-msi crate MSI-X. Interrupt Pin reads 0.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use vm_msi::domain::BusMaster;
use vm_msi::msix::Bar;

use super::capabilities::{Capabilities, Window};
use super::common;
use super::doorbell::Doorbells;
use super::layout::{BAR, DOORBELL_BYTES, Structure};
use crate::pci::bar::COMMAND;
use crate::pci::{
    BarAddresses, Bars, ConfigSpace, Decoding, Function, MsixCapability, Root, WindowFull, overlap,
};
use crate::virtio::queue::QueueIndex;
use crate::virtio::transport::Transport;
use crate::virtio::worker::Workers;

/// The function.
pub struct PciFunction {
    transport: Arc<Transport>,
    space: Mutex<ConfigSpace>,
    bars: Bars,
    msix: MsixCapability,
    window: Window,
    doorbells: Doorbells,
    workers: Mutex<Workers>,
}

impl PciFunction {
    /// Creates the function of a device and assigns its BAR. The function owns `workers`.
    ///
    /// # Errors
    /// The bus has no room for the BAR.
    pub fn new(
        transport: Arc<Transport>,
        doorbells: Doorbells,
        workers: Workers,
        root: &Root,
    ) -> Result<Self, WindowFull> {
        let device = transport.device();
        let queues = transport.look(|registers| registers.queue_count());
        let Capabilities { mut space, bars, msix, window } =
            Capabilities::new(&device.identity(), queues, device.config().map_or(0, |config| config.len()));
        root.assign(&bars, &mut space)?;
        let (space, workers) = (Mutex::new(space), Mutex::new(workers));
        Ok(Self { transport, space, bars, msix, window, doorbells, workers })
    }

    fn space(&self) -> MutexGuard<'_, ConfigSpace> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of a configuration access that falls on the window's data register.
    fn window_part(&self, offset: u16, len: usize) -> Option<(std::ops::Range<usize>, usize)> {
        let data = u64::from(self.window.data());
        let (bytes, at) = overlap(offset.into(), len, &(data..data.saturating_add(Window::BYTES)))?;
        Some((bytes, usize::try_from(at).ok()?))
    }

    fn read_structures(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for structure in Structure::ALL {
            let Some((bytes, at)) = overlap(offset, data.len(), &structure.page()) else { continue };
            let part = data.get_mut(bytes).unwrap_or_default();
            match structure {
                Structure::Common => {
                    let generation = self.transport.device().config().map_or(0, |config| config.generation());
                    self.transport.look(|registers| common::read(registers, generation, at, part));
                }
                Structure::Isr => {
                    if let (0, Some(isr)) = (at, part.first_mut()) {
                        *isr = self.transport.look(|registers| std::mem::take(&mut registers.isr));
                    }
                }
                Structure::Device => {
                    if let Some(config) = self.transport.device().config() {
                        config.read(usize::try_from(at).unwrap_or(usize::MAX), part);
                    }
                }
                Structure::Notify => {}
            }
        }
    }

    fn write_structures(&self, offset: u64, data: &[u8]) {
        for structure in Structure::ALL {
            let Some((bytes, at)) = overlap(offset, data.len(), &structure.page()) else { continue };
            let part = data.get(bytes).unwrap_or_default();
            match structure {
                Structure::Common => self.transport.change(|registers, memory| {
                    let vectors = self.transport.interrupts().table_size();
                    common::write(registers, memory, vectors, at, part)
                }),
                Structure::Isr => {}
                Structure::Device => self.transport.write_config(at, part),
                Structure::Notify => self.ring(at, part.len()),
            }
        }
    }

    /// A trapped access of the doorbells.
    fn ring(&self, at: u64, len: usize) {
        let queues = self.transport.look(|registers| registers.queue_count());
        for queue in 0..queues {
            let start = u64::from(queue).saturating_mul(DOORBELL_BYTES.into());
            if overlap(at, len, &(start..start.saturating_add(DOORBELL_BYTES.into()))).is_some() {
                self.transport.ring(QueueIndex(queue));
            }
        }
    }
}

impl Function for PciFunction {
    fn config_read(&self, offset: u16, data: &mut [u8]) {
        let target = {
            let space = self.space();
            space.merge(offset, data);
            self.window.target(&space)
        };
        self.transport.interrupts().config_read(self.msix, offset, data);
        if let (Some((bytes, at)), Some((target, len))) = (self.window_part(offset, data.len()), target) {
            let mut found = [0; Window::BYTES as usize];
            self.bar_read(BAR.into(), target, found.get_mut(..len).unwrap_or_default());
            let found = found.iter().skip(at);
            data.get_mut(bytes).unwrap_or_default().iter_mut().zip(found).for_each(|(to, from)| *to = *from);
        }
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let (target, value) = {
            let mut space = self.space();
            space.write(offset, data);
            self.transport.set_bus_master(BusMaster::of_command(space.value(COMMAND, 2) as u16));
            (self.window.target(&space), space.value(self.window.data(), 4).to_le_bytes())
        };
        self.transport.interrupts().config_write(self.msix, offset, data);
        self.transport.retry_later();
        if let (Some(_), Some((target, len))) = (self.window_part(offset, data.len()), target) {
            self.bar_write(BAR.into(), target, value.get(..len).unwrap_or_default());
        }
    }

    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
        match bar_index(bar) {
            Some(bar) => {
                let structures = |offset, part: &mut [u8]| self.read_structures(offset, part);
                self.transport.interrupts().read_bar(bar, offset, data, structures);
            }
            None => data.fill(0xff),
        }
    }

    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
        if let Some(bar) = bar_index(bar) {
            let structures = |offset, part: &[u8]| self.write_structures(offset, part);
            self.transport.interrupts().write_bar(bar, offset, data, structures);
            self.transport.retry_later();
        }
    }

    fn decoding(&self) -> Decoding {
        self.bars.decode(&self.space())
    }

    fn update_bars(&self, addresses: &BarAddresses) {
        let bar = addresses.first().copied().flatten().map(|place| place.range.start());
        self.doorbells.set_address(bar, self.transport.doorbells());
    }

    fn release(&self) {
        self.doorbells.set_address(None, self.transport.doorbells());
        self.transport.set_bus_master(BusMaster::Disabled);
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).stop();
        self.transport.interrupts().tear_down();
    }

    fn report(&self) -> Option<Value> {
        Some(self.transport.report())
    }
}

/// The function's only BAR.
fn bar_index(bar: usize) -> Option<Bar> {
    Bar::new(u8::try_from(bar).ok()?).filter(|bar| bar.index() == BAR)
}
