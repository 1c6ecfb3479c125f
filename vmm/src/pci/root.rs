//! The root bus: which function is where, and which BAR answers at which address.
//!
//! Invariant: a BAR is in the address map exactly while its function has been told so by [`Function::place`]. The
//! bus lock is held while placements change, so that functions hear of them in order; it is not held while a
//! function answers an access. Functions are put on the bus before the guest runs and stay there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::address_map::{AddressMap, BarOwner, Hit};
use super::bar::Bars;
use super::config::ConfigSpace;
use super::function::{BAR_COUNT, Decoding, DeviceFunction, Function, Pages, Place, Placement};
use super::host_bridge::HostBridge;
use super::windows::{BarAllocator, BusRange, Space, WindowFull, Windows};

/// Header type (PCIe r6 §7.5.1.1.9) and its bit that says that a device has more functions than this one.
const HEADER_TYPE: usize = 0x0e;
const MULTI_FUNCTION: u8 = 1 << 7;

/// Devices beside the host bridge, and functions on the bus.
const DEVICES: u8 = 32;
const FUNCTIONS: u8 = 8;

/// All places on the bus are taken.
#[derive(Debug, thiserror::Error)]
#[error("the PCI bus has no place left: it takes 248 devices beside the host bridge")]
pub struct BusFull;

struct Occupant {
    function: Arc<dyn Function>,
    decoding: Decoding,
    placement: Placement,
}

#[derive(Default)]
struct Bus {
    occupants: BTreeMap<DeviceFunction, Occupant>,
    map: AddressMap,
}

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

    /// Programs a function's BARs with addresses that nothing else on the bus was given.
    ///
    /// # Errors
    /// A window is used up.
    pub fn assign(&self, bars: &Bars, space: &mut ConfigSpace) -> Result<(), WindowFull> {
        bars.assign(space, &mut self.addresses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a function on the bus: a device of its own while there are any, then further functions of those.
    ///
    /// # Errors
    /// All places are taken.
    pub fn add(&self, function: Arc<dyn Function>) -> Result<DeviceFunction, BusFull> {
        let places =
            (0..FUNCTIONS).flat_map(|function| (1..DEVICES).map(move |device| (device << 3) | function));
        let place = {
            let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
            places.map(DeviceFunction::from_bits).find(|place| !bus.occupants.contains_key(place))
        };
        let place = place.ok_or(BusFull)?;
        self.insert(place, function);
        self.update_bars(place);
        Ok(place)
    }

    /// Tells every function to give back what it holds of its host. Nothing may run the guest any more.
    pub fn release(&self) {
        for (_, function) in self.functions() {
            function.release();
        }
    }

    /// Each function's part of the final report, with its place on the bus.
    #[must_use]
    pub fn reports(&self) -> Vec<(DeviceFunction, serde_json::Value)> {
        let functions = self.functions().into_iter();
        functions.filter_map(|(place, function)| Some((place, function.report()?))).collect()
    }

    fn functions(&self) -> Vec<(DeviceFunction, Arc<dyn Function>)> {
        let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
        bus.occupants.iter().map(|(place, occupant)| (*place, Arc::clone(&occupant.function))).collect()
    }

    fn insert(&self, place: DeviceFunction, function: Arc<dyn Function>) {
        let occupant = Occupant { function, decoding: [None; BAR_COUNT], placement: [None; BAR_COUNT] };
        self.bus.write().unwrap_or_else(PoisonError::into_inner).occupants.insert(place, occupant);
    }

    fn function(&self, place: DeviceFunction) -> Option<Arc<dyn Function>> {
        let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
        bus.occupants.get(&place).map(|occupant| Arc::clone(&occupant.function))
    }

    /// Reads a function's configuration space; the access may reach over its end.
    pub(super) fn config_read(&self, place: DeviceFunction, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(function) = self.function(place) else {
            return;
        };
        function.config_read(offset, data);
        if place.function() == 0
            && self.is_multi_function(place)
            && let Some(at) = HEADER_TYPE.checked_sub(usize::from(offset))
            && let Some(header_type) = data.get_mut(at)
        {
            *header_type |= MULTI_FUNCTION;
        }
    }

    /// Writes a function's configuration space, and lets its BARs go where it now wants them.
    pub(super) fn config_write(&self, place: DeviceFunction, offset: u16, data: &[u8]) {
        if let Some(function) = self.function(place) {
            function.config_write(offset, data);
            self.update_bars(place);
        }
    }

    fn is_multi_function(&self, place: DeviceFunction) -> bool {
        let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
        let others =
            DeviceFunction::from_bits(place.bits() | 1)..=DeviceFunction::from_bits(place.bits() | 7);
        bus.occupants.range(others).next().is_some()
    }

    /// Brings the address map in line with what the function at `place` decodes. Does nothing if that is unchanged.
    fn update_bars(&self, place: DeviceFunction) {
        let mut bus = self.bus.write().unwrap_or_else(PoisonError::into_inner);
        let Some(occupant) = bus.occupants.get_mut(&place) else {
            return;
        };
        // Read under the lock: of two writers, the later one to come here sees both writes.
        let decoding = occupant.function.decoding();
        if occupant.decoding == decoding {
            return;
        }
        occupant.decoding = decoding;
        let (map, placements) = bus.arbitrate(&self.windows);
        bus.map = map;
        let changed = bus.occupants.values_mut().zip(placements).filter(|(now, next)| now.placement != *next);
        let changed: Vec<_> = changed.collect();
        // All that go, go first: their addresses may be wanted by those that come.
        for (occupant, next) in &changed {
            let mut staying = occupant.placement;
            for (now, next) in staying.iter_mut().zip(next) {
                *now = now.filter(|now| *next == Some(*now));
            }
            occupant.function.place(&staying);
        }
        for (occupant, next) in changed {
            occupant.function.place(&next);
            occupant.placement = next;
        }
    }

    fn find(&self, space: Space, address: u64) -> Option<(Arc<dyn Function>, Hit)> {
        let bus = self.bus.read().unwrap_or_else(PoisonError::into_inner);
        let hit = bus.map.find(space, address)?;
        let occupant = bus.occupants.get(&hit.owner.function)?;
        Some((Arc::clone(&occupant.function), hit))
    }

    /// Reads from the bus; an access over a BAR's end is split there.
    pub(super) fn read(&self, space: Space, address: u64, mut data: &mut [u8]) {
        data.fill(0xff);
        let mut address = Some(address);
        while let (Some(at), false) = (address, data.is_empty()) {
            let hit = self.find(space, at);
            let (part, rest) = data.split_at_mut(part_len(hit.as_ref(), data.len()));
            address = at.checked_add(part.len() as u64);
            if let Some((function, hit)) = hit {
                function.bar_read(hit.owner.bar, hit.offset, part);
            }
            data = rest;
        }
    }

    /// Writes to the bus; an access over a BAR's end is split there.
    pub(super) fn write(&self, space: Space, address: u64, mut data: &[u8]) {
        let mut address = Some(address);
        while let (Some(at), false) = (address, data.is_empty()) {
            let hit = self.find(space, at);
            let (part, rest) = data.split_at(part_len(hit.as_ref(), data.len()));
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
    /// Grants what lies in a window and is free: what stands already keeps its place, then lower functions first.
    fn arbitrate(&self, windows: &Windows) -> (AddressMap, Vec<Placement>) {
        let mut map = AddressMap::default();
        let mut placements = vec![[None; BAR_COUNT]; self.occupants.len()];
        for standing in [true, false] {
            for ((place, occupant), placement) in self.occupants.iter().zip(&mut placements) {
                let bars = occupant.decoding.iter().zip(&occupant.placement).zip(placement).enumerate();
                for (bar, ((wanted, now), granted)) in bars {
                    let stands = |range: &BusRange| now.is_some_and(|now| now.range == *range) == standing;
                    let wanted = wanted.filter(|range| windows.contain(range) && stands(range));
                    let owner = BarOwner { function: *place, bar };
                    let claimed = wanted.filter(|range| map.claim(*range, owner));
                    *granted = (*granted).or(claimed.map(|range| Place { range, pages: Pages::Shared }));
                }
            }
        }
        // Only now is it known who else is there.
        for place in placements.iter_mut().flatten().flatten() {
            place.pages = map.pages(&place.range);
        }
        (map, placements)
    }
}

/// How much of an access one BAR answers; where there is none, one byte, for the next may be a BAR's.
fn part_len(hit: Option<&(Arc<dyn Function>, Hit)>, len: usize) -> usize {
    let left = hit.map_or(1, |(_, hit)| usize::try_from(hit.left).unwrap_or(usize::MAX));
    left.min(len)
}
