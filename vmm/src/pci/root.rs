//! The root bus: functions by device and function number, BARs by address.
//!
//! Invariant: a BAR is in the address map exactly while its function knows its address ([`Function::update_bars`]). The
//! bus lock is held while addresses change, so that functions see the changes in order. It is not held during an access
//! to a function. Functions are added before the guest runs and stay on the bus.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::address_map::{AddressMap, BarOwner, Hit};
use super::bar::Bars;
use super::config::ConfigSpace;
use super::function::{BarAddress, BarAddresses, DECODER_COUNT, Decoding, DeviceFunction, Function, Pages};
use super::host_bridge::HostBridge;
use super::windows::{BarAllocator, BusRange, Space, WindowFull, Windows};

/// Header type (PCIe r6 §7.5.1.1.9) and its Multi-Function Device bit.
const HEADER_TYPE: usize = 0x0e;
const MULTI_FUNCTION: u8 = 1 << 7;

/// Device numbers and functions per device.
const DEVICES: u8 = 32;
const FUNCTIONS: u8 = 8;

/// All device and function numbers are in use.
#[derive(Debug, thiserror::Error)]
#[error("the PCI bus is full: it has 248 functions besides the host bridge")]
pub struct BusFull;

/// A BAR at an address, and its function.
type Found = (Arc<dyn Function>, Hit);

struct Occupant {
    function: Arc<dyn Function>,
    decoding: Decoding,
    addresses: BarAddresses,
}

#[derive(Default)]
struct Bus {
    occupants: BTreeMap<DeviceFunction, Occupant>,
    map: AddressMap,
}

/// The device and function number is in use.
#[derive(Debug, thiserror::Error)]
#[error("{0} on the PCI bus is in use")]
pub struct AddressInUse(DeviceFunction);

/// The root complex and its bus 0.
pub struct Root {
    windows: Windows,
    addresses: Mutex<BarAllocator>,
    bus: RwLock<Bus>,
    /// `CONFIG_ADDRESS` of the configuration ports.
    pub(super) config_address: AtomicU32,
}

impl Root {
    /// A bus with the host bridge at 00:00.0 and nothing else.
    #[must_use]
    pub fn new(windows: Windows) -> Arc<Self> {
        let root = Self {
            addresses: Mutex::new(BarAllocator::new(&windows)),
            windows,
            bus: RwLock::default(),
            config_address: AtomicU32::new(0),
        };
        root.insert(DeviceFunction::from_bits(0), Arc::new(HostBridge::default()));
        Arc::new(root)
    }

    /// Programs a function's BARs with unused addresses.
    ///
    /// # Errors
    /// A window has no room.
    pub fn assign(&self, bars: &Bars, space: &mut ConfigSpace) -> Result<(), WindowFull> {
        bars.assign(space, &mut self.addresses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a function: as function 0 of a new device while there is one, then as a further function.
    ///
    /// # Errors
    /// The bus is full.
    pub fn add(&self, function: Arc<dyn Function>) -> Result<DeviceFunction, BusFull> {
        let bdfs =
            (0..FUNCTIONS).flat_map(|function| (1..DEVICES).map(move |device| (device << 3) | function));
        let bdf = {
            let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
            bdfs.map(DeviceFunction::from_bits).find(|bdf| !bus.occupants.contains_key(bdf))
        };
        let bdf = bdf.ok_or(BusFull)?;
        self.insert(bdf, function);
        self.update_address_map(bdf);
        Ok(bdf)
    }

    /// Adds a function at this device and function number.
    ///
    /// # Errors
    /// The number is in use.
    pub fn add_at(&self, bdf: DeviceFunction, function: Arc<dyn Function>) -> Result<(), AddressInUse> {
        let is_taken = self.bus.read().unwrap_or_else(PoisonError::into_inner).occupants.contains_key(&bdf);
        if is_taken {
            return Err(AddressInUse(bdf));
        }
        self.insert(bdf, function);
        self.update_address_map(bdf);
        Ok(())
    }

    /// Releases the host resources of every function. Call this after the vCPUs have stopped.
    pub fn release(&self) {
        for (_, function) in self.functions() {
            function.release();
        }
    }

    /// Each function's part of the report, with its address on the bus.
    #[must_use]
    pub fn reports(&self) -> Vec<(DeviceFunction, serde_json::Value)> {
        let functions = self.functions().into_iter();
        functions.filter_map(|(bdf, function)| Some((bdf, function.report()?))).collect()
    }

    fn functions(&self) -> Vec<(DeviceFunction, Arc<dyn Function>)> {
        let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
        bus.occupants.iter().map(|(bdf, occupant)| (*bdf, Arc::clone(&occupant.function))).collect()
    }

    fn insert(&self, bdf: DeviceFunction, function: Arc<dyn Function>) {
        let occupant =
            Occupant { function, decoding: [None; DECODER_COUNT], addresses: [None; DECODER_COUNT] };
        self.bus.write().unwrap_or_else(PoisonError::into_inner).occupants.insert(bdf, occupant);
    }

    fn function(&self, bdf: DeviceFunction) -> Option<Arc<dyn Function>> {
        let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
        bus.occupants.get(&bdf).map(|occupant| Arc::clone(&occupant.function))
    }

    /// Reads a function's configuration space. The access may reach beyond its end.
    pub(super) fn config_read(&self, bdf: DeviceFunction, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(function) = self.function(bdf) else {
            return;
        };
        function.config_read(offset, data);
        if bdf.function() == 0
            && self.is_multi_function(bdf)
            && let Some(at) = HEADER_TYPE.checked_sub(usize::from(offset))
            && let Some(header_type) = data.get_mut(at)
        {
            *header_type |= MULTI_FUNCTION;
        }
    }

    /// Writes a function's configuration space and updates the addresses of its BARs.
    pub(super) fn config_write(&self, bdf: DeviceFunction, offset: u16, data: &[u8]) {
        if let Some(function) = self.function(bdf) {
            function.config_write(offset, data);
            self.update_address_map(bdf);
        }
    }

    fn is_multi_function(&self, bdf: DeviceFunction) -> bool {
        let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
        let others = DeviceFunction::from_bits(bdf.bits() | 1)..=DeviceFunction::from_bits(bdf.bits() | 7);
        bus.occupants.range(others).next().is_some()
    }

    /// Updates the address map after a change of the function's decoding. Does nothing if the decoding is unchanged.
    fn update_address_map(&self, bdf: DeviceFunction) {
        let mut bus = self.bus.write().unwrap_or_else(PoisonError::into_inner);
        let Some(occupant) = bus.occupants.get_mut(&bdf) else {
            return;
        };
        // Read under the lock: the later of two concurrent writers sees both writes.
        let decoding = occupant.function.decoding();
        if occupant.decoding == decoding {
            return;
        }
        occupant.decoding = decoding;
        let (map, addresses) = bus.arbitrate(&self.windows);
        bus.map = map;
        let changed = bus.occupants.values_mut().zip(addresses).filter(|(now, next)| now.addresses != *next);
        let changed: Vec<_> = changed.collect();
        // Remove all old ranges first: a new range may overlap one of them.
        for (occupant, next) in &changed {
            let mut staying = occupant.addresses;
            for (now, next) in staying.iter_mut().zip(next) {
                *now = now.filter(|now| *next == Some(*now));
            }
            occupant.function.update_bars(&staying);
        }
        for (occupant, next) in changed {
            occupant.function.update_bars(&next);
            occupant.addresses = next;
        }
    }

    /// The BAR at an address, if any, and the number of bytes to its end or to the next BAR.
    fn find(&self, space: Space, address: u64) -> (Option<Found>, usize) {
        let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
        let hit = bus.map.find(space, address).and_then(|hit| {
            let occupant = bus.occupants.get(&hit.owner.function)?;
            Some((Arc::clone(&occupant.function), hit))
        });
        let left = hit.as_ref().map_or_else(|| bus.map.gap(space, address), |(_, hit)| hit.remaining);
        // An access ends before 2^64, where no BAR is.
        (hit, usize::try_from(left).unwrap_or(usize::MAX).max(1))
    }

    /// Reads from the bus. An access across a BAR's end is split. Each part is the device's or all ones, also while another
    /// vCPU moves the BAR.
    pub(super) fn read(&self, space: Space, address: u64, mut data: &mut [u8]) {
        data.fill(0xff);
        let mut address = Some(address);
        while let (Some(at), false) = (address, data.is_empty()) {
            let (hit, left) = self.find(space, at);
            let (part, rest) = data.split_at_mut(left.min(data.len()));
            address = at.checked_add(part.len() as u64);
            if let Some((function, hit)) = hit {
                function.bar_read(hit.owner.bar, hit.offset, part);
            }
            data = rest;
        }
    }

    /// Writes to the bus. An access across a BAR's end is split.
    pub(super) fn write(&self, space: Space, address: u64, mut data: &[u8]) {
        let mut address = Some(address);
        while let (Some(at), false) = (address, data.is_empty()) {
            let (hit, left) = self.find(space, at);
            let (part, rest) = data.split_at(left.min(data.len()));
            address = at.checked_add(part.len() as u64);
            if let Some((function, hit)) = hit {
                function.bar_write(hit.owner.bar, hit.offset, part);
            }
            data = rest;
        }
    }

    pub(super) fn config_address(&self) -> u32 {
        self.config_address.load(Ordering::Relaxed)
    }
}

impl Bus {
    /// Grants ranges that lie in a window and are free. Existing ranges have priority, then lower functions.
    fn arbitrate(&self, windows: &Windows) -> (AddressMap, Vec<BarAddresses>) {
        let mut map = AddressMap::default();
        let mut addresses = vec![[None; DECODER_COUNT]; self.occupants.len()];
        for standing in [true, false] {
            for ((bdf, occupant), addresses) in self.occupants.iter().zip(&mut addresses) {
                let bars = occupant.decoding.iter().zip(&occupant.addresses).zip(addresses).enumerate();
                for (bar, ((wanted, now), granted)) in bars {
                    let stands = |range: &BusRange| now.is_some_and(|now| now.range == *range) == standing;
                    let wanted = wanted.filter(|range| windows.contain(range) && stands(range));
                    let owner = BarOwner { function: *bdf, bar };
                    let claimed = wanted.filter(|range| map.claim(*range, owner));
                    *granted = (*granted).or(claimed.map(|range| BarAddress { range, pages: Pages::Shared }));
                }
            }
        }
        // Page sharing is known only after all claims.
        for place in addresses.iter_mut().flatten().flatten() {
            place.pages = map.pages(&place.range);
        }
        (map, addresses)
    }
}
