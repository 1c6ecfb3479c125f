//! A function's interrupts: the emulated capabilities, the dispatch of the guest's accesses to them, and INTx, which the
//! capabilities hold while they are enabled. MSI and MSI-X differ only in the BAR structures of MSI-X.
//!
//! Owns the interrupts of one function. It has no lock of its own: the vm-msi crate serialises each capability, and
//! [`TablePages`](super::table_pages::TablePages) the copy of the MSI-X table.

mod bars;
pub mod probe;

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};
use vm_memory::MmapRegion;
use vm_msi::DeviceDomain;
use vm_msi::PciCapability;
use vm_msi::function::InterruptFunction;
use vm_msi::msix::Bar;

use bars::MsixBars;

use super::host_interrupts::{self, HostInterrupts};
use super::intx::Intx;
use super::sysfs::HostAddress;
use crate::pci;

/// Bytes of a capability's ID and next pointer, which the relinked list provides.
const LIST_BYTES: u16 = 2;

/// The vectors of an emulated capability.
pub trait Vectors: fmt::Debug + Send + Sync {
    /// Reads the capability, from its ID on.
    fn read_config(&self, offset: u16, data: &mut [u8]);
    /// Writes the capability, from its ID on.
    fn write_config(&self, offset: u16, data: &[u8]);
    /// Detaches the interrupts, calls `reset_device`, and clears pending interrupts.
    fn reset(&self, reset_device: &mut dyn FnMut());
    /// Holds INTx from before the capability is enabled at the host until after it is disabled.
    fn alternate_with(&self, intx: &Arc<Intx>);
    /// Retries refused host calls and releases expired vectors.
    fn retry(&self);
    /// Binds host vectors for newly used vectors.
    fn bind_deferred(&self);
    /// A descriptor that is ready while vectors wait for [`Vectors::bind_deferred`].
    ///
    /// # Errors
    /// The host's error if it refuses the descriptor.
    fn deferred_bind_fd(&self) -> io::Result<Arc<OwnedFd>>;
    /// The highest number of relayed deliveries of a vector.
    fn max_relayed(&self) -> u32;
    /// Delivers relayed interrupts.
    fn deliver_relayed(&self);
    /// A descriptor that is ready while a relayed interrupt is pending.
    ///
    /// # Errors
    /// The host's error if it refuses the descriptor.
    fn relay_fd(&self) -> io::Result<Arc<OwnedFd>>;
    /// The vectors' part of the report. `counted` holds the host's interrupt counts.
    fn report(&self, counted: &HostInterrupts) -> Value;
}

impl<C> Vectors for InterruptFunction<C, DeviceDomain>
where
    C: PciCapability + fmt::Debug,
{
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.read_config(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        self.write_config(offset, data);
    }

    fn reset(&self, reset_device: &mut dyn FnMut()) {
        self.reset(reset_device);
    }

    fn alternate_with(&self, intx: &Arc<Intx>) {
        let (before_open, after_close) = (Arc::clone(intx), Arc::clone(intx));
        self.set_window_hooks(move || before_open.take_over(), move || after_close.give_back());
    }

    fn retry(&self) {
        self.retry();
    }

    fn bind_deferred(&self) {
        self.bind_deferred();
    }

    fn deferred_bind_fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.deferred_bind_fd()
    }

    fn max_relayed(&self) -> u32 {
        self.max_relayed()
    }

    fn deliver_relayed(&self) {
        self.deliver_relayed();
    }

    fn relay_fd(&self) -> io::Result<Arc<OwnedFd>> {
        self.relay_fd()
    }

    fn report(&self, counted: &HostInterrupts) -> Value {
        let report = self.report();
        let vectors = report.vectors.iter().map(|vector| {
            let count = ("host_interrupts".to_owned(), json!(counted.count(vector.vector.0)));
            extended(json!(vector), [count])
        });
        let vectors = ("vectors".to_owned(), vectors.collect());
        json!({ "vectors": self.capacity(), "domain": extended(json!(report), [vectors]) })
    }
}

/// Adds fields to a JSON object.
pub fn extended(mut object: Value, more: impl IntoIterator<Item = (String, Value)>) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.extend(more);
    }
    object
}

/// An emulated capability.
#[derive(Debug)]
struct Emulated {
    id: u8,
    /// Its name in the report.
    name: &'static str,
    /// Its bytes of configuration space, including ID and next pointer.
    bytes: Range<u16>,
    vectors: Arc<dyn Vectors>,
}

/// All of a function's interrupts.
#[derive(Debug, Default)]
pub struct Interrupts {
    capabilities: Vec<Emulated>,
    /// The BAR structures of MSI-X, if present.
    msix: Option<MsixBars>,
    /// INTx, once it is connected.
    intx: OnceLock<Arc<Intx>>,
}

impl Interrupts {
    /// The IDs of the capabilities and the configuration bytes that are emulated.
    pub fn emulated(&self) -> impl Iterator<Item = (u8, Range<u16>)> {
        self.capabilities.iter().map(|capability| (capability.id, registers(&capability.bytes)))
    }

    /// Creates the MSI-X table pages that the guest reads without an exit, if the table fills any.
    ///
    /// # Errors
    /// The host's error if memory is short. Every access is trapped then.
    pub fn make_table_pages(&mut self) -> io::Result<()> {
        self.msix.as_mut().map_or(Ok(()), MsixBars::make_pages)
    }

    /// The emulated bytes of a BAR.
    #[must_use]
    pub fn trapped(&self, bar: usize) -> Vec<Range<u64>> {
        self.msix.as_ref().map(|msix| msix.trapped(bar)).unwrap_or_default()
    }

    /// The part of these that the guest reads without an exit, and the memory behind it.
    #[must_use]
    pub fn readable(&self, bar: usize) -> Option<(Range<u64>, Arc<MmapRegion>)> {
        self.msix.as_ref()?.readable(bar)
    }

    /// Connects INTx, and enables it while no other interrupt is enabled. Called once, before the guest runs.
    pub fn connect_intx(&self, intx: Intx) {
        let intx = self.intx.get_or_init(|| Arc::new(intx));
        for vectors in self.vectors() {
            vectors.alternate_with(intx);
        }
        intx.give_back();
    }

    /// INTx, if the function has it.
    pub fn intx(&self) -> Option<&Arc<Intx>> {
        self.intx.get()
    }

    /// Disables INTx at the host for good.
    pub fn release_intx(&self) {
        self.hold_intx();
    }

    fn hold_intx(&self) {
        if let Some(intx) = self.intx()
            && let Err(error) = intx.take_over()
        {
            tracing::warn!("INTx cannot be disabled: {error}");
        }
    }

    /// Reads the bytes of a configuration access that belong to the capabilities.
    pub fn read_config(&self, offset: u16, data: &mut [u8]) {
        for capability in &self.capabilities {
            if let Some((bytes, at)) = overlap(offset, data.len(), &capability.bytes) {
                capability.vectors.read_config(at, data.get_mut(bytes).unwrap_or_default());
            }
        }
    }

    /// Writes the bytes of a configuration access that belong to the capabilities.
    pub fn write_config(&self, offset: u16, data: &[u8]) {
        for capability in &self.capabilities {
            if let Some((bytes, at)) = overlap(offset, data.len(), &capability.bytes) {
                capability.vectors.write_config(at, data.get(bytes).unwrap_or_default());
            }
        }
    }

    /// Reads from a BAR. `device` reads the bytes that are not emulated.
    pub fn read_bar(&self, bar: usize, offset: u64, data: &mut [u8], mut device: impl FnMut(u64, &mut [u8])) {
        match (&self.msix, bar_index(bar)) {
            (Some(msix), Some(bar)) => msix.read(bar, offset, data, &mut device),
            _ => device(offset, data),
        }
    }

    /// Writes to a BAR. `device` writes the bytes that are not emulated.
    pub fn write_bar(&self, bar: usize, offset: u64, data: &[u8], mut device: impl FnMut(u64, &[u8])) {
        match (&self.msix, bar_index(bar)) {
            (Some(msix), Some(bar)) => msix.write(bar, offset, data, &mut device),
            _ => device(offset, data),
        }
    }

    /// Detaches all interrupts, calls `reset_device`, and clears pending interrupts. INTx is enabled afterwards, unless it is
    /// released.
    pub fn reset(&self, mut reset_device: impl FnMut()) {
        self.hold_intx();
        reset_behind(&self.capabilities, &mut reset_device);
        if let Some(intx) = self.intx() {
            intx.give_back();
        }
        if let Some(msix) = &self.msix {
            msix.update_all();
        }
    }

    /// Each capability's vectors.
    pub fn vectors(&self) -> impl Iterator<Item = &Arc<dyn Vectors>> {
        self.capabilities.iter().map(|capability| &capability.vectors)
    }

    /// The report's fields by capability. `address` is the device's address on the host.
    #[must_use]
    pub fn report(&self, address: HostAddress) -> Map<String, Value> {
        // If the file cannot be read, the report has no counts.
        let listed = std::fs::read_to_string(host_interrupts::PATH).unwrap_or_default();
        let field = |capability: &Emulated| {
            let counted = HostInterrupts::of(&listed, capability.name, address);
            (capability.name.to_owned(), capability.vectors.report(&counted))
        };
        let intx = self.intx().map(|intx| intx.report(&HostInterrupts::of_intx(&listed, address)));
        let intx = intx.map(|report| ("intx".to_owned(), report));
        self.capabilities.iter().map(field).chain(intx).collect()
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Interrupts {
    /// MSI-X at 0x50, with its table and PBA in `function`'s BAR.
    pub(super) fn of_msix(function: vm_msi::MsixFunction) -> io::Result<Self> {
        let function = Arc::new(function);
        let vectors = Arc::clone(&function) as _;
        let capabilities = vec![Emulated { id: 0x11, name: "msix", bytes: 0x50..0x5c, vectors }];
        let mut interrupts = Self { capabilities, msix: Some(MsixBars::new(function)), ..Self::default() };
        interrupts.make_table_pages()?;
        Ok(interrupts)
    }
}

/// Resets the device after all capabilities are detached, and clears pending interrupts afterwards.
fn reset_behind(capabilities: &[Emulated], reset_device: &mut dyn FnMut()) {
    match capabilities.split_first() {
        Some((first, rest)) => first.vectors.reset(&mut || reset_behind(rest, reset_device)),
        None => reset_device(),
    }
}

fn bar_index(bar: usize) -> Option<Bar> {
    Bar::new(u8::try_from(bar).ok()?)
}

/// The emulated bytes of a capability: all but ID and next pointer.
fn registers(capability: &Range<u16>) -> Range<u16> {
    capability.start.saturating_add(LIST_BYTES)..capability.end
}

/// The part of an access of `len` bytes at `offset` that falls on a capability's registers: range in the buffer,
/// offset in the capability.
fn overlap(offset: u16, len: usize, capability: &Range<u16>) -> Option<(Range<usize>, u16)> {
    let registers = registers(capability);
    let window = u64::from(registers.start)..u64::from(registers.end);
    let (bytes, at) = pci::overlap(offset.into(), len, &window)?;
    Some((bytes, u16::try_from(at).ok()?.checked_add(LIST_BYTES)?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use vm_msi::MsixFunction;
    use vm_msi::msix::{Layout, TableSize};
    use vm_msi::testing::{Failures, FakeBackend, FakeRouter};

    use super::*;
    use crate::vfio::intx::tests::{Recorder as IntxRecorder, intx_of};

    #[test]
    fn an_access_is_the_capabilitys_but_for_id_and_pointer() {
        let overlap = |offset, len| overlap(offset, len, &(0x50..0x5c));
        assert_eq!(overlap(0x50, 4), Some((2..4, 2)));
        assert_eq!(overlap(0x52, 2), Some((0..2, 2)));
        assert_eq!(overlap(0x53, 1), Some((0..1, 3)));
        assert_eq!(overlap(0x5a, 8), Some((0..2, 10)));
        assert_eq!(overlap(0x4c, 32), Some((6..16, 2)));
        for (offset, len) in [(0x50, 2), (0x5c, 4), (0x40, 16), (0x52, 0), (0xfff, 1)] {
            assert_eq!(overlap(offset, len), None, "{offset:#x} {len}");
        }
    }

    pub(in crate::vfio) type Log = Arc<Mutex<Vec<String>>>;

    /// Vectors that record calls. They read as their offset, and `max_relayed` is the length of their name.
    #[derive(Debug)]
    struct Recorder(&'static str, Log);

    impl Vectors for Recorder {
        fn read_config(&self, offset: u16, data: &mut [u8]) {
            for (byte, at) in data.iter_mut().zip(offset..) {
                *byte = at as u8;
            }
        }

        fn write_config(&self, offset: u16, data: &[u8]) {
            self.1.lock().unwrap().push(format!("{} {offset} {data:?}", self.0));
        }

        fn reset(&self, reset_device: &mut dyn FnMut()) {
            self.1.lock().unwrap().push(format!("{} down", self.0));
            reset_device();
            self.1.lock().unwrap().push(format!("{} forgets", self.0));
        }

        fn alternate_with(&self, _: &Arc<Intx>) {
            self.1.lock().unwrap().push(format!("{} alternates", self.0));
        }

        fn retry(&self) {
            self.1.lock().unwrap().push(format!("{} again", self.0));
        }

        fn bind_deferred(&self) {
            self.1.lock().unwrap().push(format!("{} grows", self.0));
        }

        fn deferred_bind_fd(&self) -> io::Result<Arc<OwnedFd>> {
            std::fs::File::open("/dev/null").map(|file| Arc::new(file.into()))
        }

        fn max_relayed(&self) -> u32 {
            self.0.len() as u32
        }

        fn deliver_relayed(&self) {
            self.1.lock().unwrap().push(format!("{} delivers", self.0));
        }

        fn relay_fd(&self) -> io::Result<Arc<OwnedFd>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn report(&self, _: &HostInterrupts) -> Value {
            self.0.into()
        }
    }

    /// MSI at 0x40 and MSI-X at 0x50.
    pub(in crate::vfio) fn interrupts() -> (Interrupts, Log) {
        let log = Log::default();
        let emulated = |id, name, bytes| {
            let vectors: Arc<dyn Vectors> = Arc::new(Recorder(name, Arc::clone(&log)));
            Emulated { id, name, bytes, vectors }
        };
        let capabilities = vec![emulated(5, "msi", 0x40..0x4e), emulated(0x11, "msix", 0x50..0x5c)];
        (Interrupts { capabilities, ..Interrupts::default() }, log)
    }

    /// MSI-X at 0x50, over fakes. The table fills the first page of BAR 0, and the PBA follows it.
    pub(in crate::vfio) fn with_a_full_page() -> Interrupts {
        with_table(256, 0, 0x1000)
    }

    /// MSI-X at 0x50, over fakes, with its table and PBA at these offsets of BAR 0.
    pub(in crate::vfio) fn with_table(vectors: u16, table: u32, pba: u32) -> Interrupts {
        let bar = Bar::new(0).unwrap();
        let layout = Layout::new(TableSize::new(vectors).unwrap(), (bar, table), (bar, pba)).unwrap();
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let function = Arc::new(MsixFunction::new(layout, router, FakeBackend::new(failures)));
        let vectors = Arc::clone(&function) as _;
        let capabilities = vec![Emulated { id: 0x11, name: "msix", bytes: 0x50..0x5c, vectors }];
        let mut interrupts =
            Interrupts { capabilities, msix: Some(MsixBars::new(function)), ..Interrupts::default() };
        interrupts.make_table_pages().unwrap();
        interrupts
    }

    #[test]
    fn the_device_is_reset_once_between_tearing_down_and_forgetting() {
        let (interrupts, log) = interrupts();
        interrupts.reset(|| log.lock().unwrap().push("device".to_owned()));
        assert_eq!(*log.lock().unwrap(), ["msi down", "msix down", "device", "msix forgets", "msi forgets"]);
        let address = HostAddress::parse("0000:01:00.0").unwrap();
        assert_eq!(Value::from(interrupts.report(address)), json!({ "msi": "msi", "msix": "msix" }));
    }

    #[test]
    fn msix_takes_over_from_intx_and_gives_it_back() {
        let interrupts = with_a_full_page();
        let recorder = IntxRecorder::default();
        interrupts.connect_intx(intx_of(&recorder));
        assert_eq!(recorder.take(), ["connect", "enable"]);
        interrupts.write_config(0x52, &[0x00, 0x80]);
        assert_eq!(recorder.take(), ["disable", "disconnect"]);
        interrupts.write_config(0x52, &[0x00, 0x00]);
        assert_eq!(recorder.take(), ["connect", "enable"]);
    }

    #[test]
    fn intx_is_disabled_during_a_reset_and_enabled_once_afterwards() {
        let interrupts = with_a_full_page();
        let recorder = IntxRecorder::default();
        interrupts.connect_intx(intx_of(&recorder));
        recorder.take();
        interrupts.reset(|| assert_eq!(recorder.take(), ["disable", "disconnect"]));
        assert_eq!(recorder.take(), ["connect", "enable"]);
        interrupts.write_config(0x52, &[0x00, 0x80]);
        recorder.take();
        interrupts.reset(|| assert_eq!(recorder.take(), [""; 0], "MSI-X holds it already"));
        assert_eq!(recorder.take(), ["connect", "enable"]);
    }

    #[test]
    fn intx_of_a_released_device_stays_disabled() {
        let interrupts = with_a_full_page();
        let recorder = IntxRecorder::default();
        interrupts.connect_intx(intx_of(&recorder));
        interrupts.release_intx();
        recorder.take();
        interrupts.write_config(0x52, &[0x00, 0x80]);
        interrupts.reset(|| ());
        assert_eq!(recorder.take(), [""; 0]);
    }

    #[test]
    fn an_access_over_two_capabilities_reaches_both() {
        let (interrupts, log) = interrupts();
        let mut data = [0xee; 8];
        interrupts.read_config(0x4c, &mut data);
        assert_eq!(data, [12, 13, 0xee, 0xee, 0xee, 0xee, 2, 3]);
        interrupts.write_config(0x4c, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(*log.lock().unwrap(), ["msi 12 [1, 2]", "msix 2 [7, 8]"]);
        let emulated: Vec<_> = interrupts.emulated().collect();
        assert_eq!(emulated, [(5, 0x42..0x4e), (0x11, 0x52..0x5c)]);
    }
}
