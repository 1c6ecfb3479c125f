//! The control: a device that shows what turning MSI-X off in order to grow costs, and that we do not do it.
//!
//! QEMU's e1000e sends an interrupt when a cause becomes set. A cause that is set while MSI-X is off sends nothing,
//! then or later, and keeps the next one from being seen. So where other devices lose one interrupt in a thousand
//! to a host that turns MSI-X off and on for each new vector, this one loses an event for certain.
//!
//! [`run`] boots a lab host and runs [`inside`] there, which drives the device itself. Registers are those of
//! Intel's 82574 datasheet, section 10.2, in BAR 0.

use std::error::Error;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use guest::Line;
use kvm_ioctls::Kvm;
use lab::{Cache, Command, Config, Device, Lab, Refresh, Series};
use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX};
use vm_msi::vfio::{MsixFileOffsets, VfioMsix};
use vm_msi::{Backend, Vector};
use vmm::vfio::Sysfs;
use vmm::vfio::container::Container;
use vmm::vfio::region::Region;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::screen::Screen;

/// An event that has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(1);
/// Vectors of the device.
const VECTORS: u32 = 5;

/// The control.
#[derive(Args, Clone)]
pub(crate) struct Control {
    /// The kernel of the emulated host.
    #[arg(long, default_value_t = Series::V6_1)]
    pub(crate) host: Series,
    /// In a lab host: drive the device at this address.
    #[arg(long, hide = true)]
    pub(crate) inside: Option<String>,
}

/// Boots a lab host with the device, and says what became of its events.
pub(crate) fn run(cli: &Control) -> guest::Result<ExitCode> {
    let screen = Screen::new();
    let cache = Cache::open()?;
    lab::provision(&cache, &[cli.host], Refresh::Keep)?;
    let lab = Lab::boot(&cache, Config::new(cli.host).device(Device::E1000e))?;
    let address = lab.bind_to_vfio(0)?;
    screen.step("An e1000e raises events while it is given more vectors");
    let own = std::env::current_exe().unwrap_or_default();
    let command = Command::new(own.to_string_lossy()).args(["control", "--inside", &address]);
    let said = lab.run(command.timeout(Duration::from_secs(60)))?.stdout_text();
    let line = |topic: &str| said.lines().map(Line::new).find(|line| line.topic() == topic);
    let mut good = true;
    for (topic, how, all) in [
        ("grown", "vectors attached one by one", true),
        ("restarted", "MSI-X turned off and on, as others grow", false),
    ] {
        let Some(line) = line(topic) else { return Ok(ExitCode::FAILURE) };
        let (raised, received) = (line.number("raised")?, line.number("received")?);
        println!("  {how}: {received} of {raised} events received");
        good &= (received == raised) == all;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// In a lab host: raises events on the device at this address, both ways, and prints what came.
pub(crate) fn inside(address: &str) -> Result<ExitCode, Box<dyn Error>> {
    let devices = Sysfs::default().select(&[address])?;
    let host = devices.first().ok_or("no such device")?;
    let vm = Kvm::new()?.create_vm()?;
    let container = Container::open(&devices, &vm)?;
    let file = std::sync::Arc::new(container.device(host)?);
    let registers = Region::new(&file, VFIO_PCI_BAR0_REGION_INDEX)?.ok_or("no BAR 0")?;
    let config = Region::new(&file, VFIO_PCI_CONFIG_REGION_INDEX)?.ok_or("no configuration")?;
    let controller = Controller { registers, vectors: eventfds()? };
    // Without it the device may not send.
    let command = u16::to_le_bytes(COMMAND_MEMORY | COMMAND_BUS_MASTER);
    config.write(COMMAND, &command);
    // It reads none of the device's own MSI-X registers.
    let offsets = MsixFileOffsets { pba: 0, table: None, message_control: None };
    let mut msix = VfioMsix::new(file.try_clone()?, offsets)?;

    controller.route_causes();
    msix.open(VECTORS)?;
    msix.bind(Vector(0), controller.eventfd(0)?)?;
    let (mut raised, mut received) = (0, 0);
    for vector in 1..VECTORS {
        for _ in 0..2 {
            controller.raise(RX_QUEUE_0);
            // The event is under way while a vector is added.
            if raised % 2 == 0 {
                msix.bind(Vector(vector), controller.eventfd(vector)?)?;
            }
            raised += 1;
            received += u32::from(controller.arrives(0)?);
        }
    }
    println!("grown raised={raised} received={received}");

    controller.settle()?;
    msix.close()?;
    controller.raise(RX_QUEUE_0);
    msix.open(VECTORS)?;
    msix.bind(Vector(0), controller.eventfd(0)?)?;
    let meanwhile = controller.arrives(0)?;
    controller.raise(RX_QUEUE_0);
    let next = controller.arrives(0)?;
    println!(
        "restarted raised=2 received={} meanwhile={meanwhile} next={next}",
        u8::from(meanwhile) + u8::from(next)
    );
    msix.close()?;
    Ok(ExitCode::SUCCESS)
}

/// Configuration space: the command register.
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Interrupt causes; writing ones clears them.
const ICR: u64 = 0xC0;
/// Sets interrupt causes.
const ICS: u64 = 0xC8;
/// Unmasks them.
const IMS: u64 = 0xD0;
/// Causes that sending an interrupt clears.
const EIAC: u64 = 0xDC;
/// Which vector each cause has; bit 3 of each field says that it has one.
const IVAR: u64 = 0xE4;
/// A cause: receive queue 0, the lowest field of IVAR.
const RX_QUEUE_0: u32 = 1 << 20;
const RX_QUEUE_0_HAS_VECTOR_0: u32 = 1 << 3;

/// The device, and where its vectors arrive.
struct Controller {
    registers: Region,
    vectors: Vec<EventFd>,
}

impl Controller {
    fn set(&self, register: u64, value: u32) {
        self.registers.write(register, &value.to_le_bytes());
    }

    fn route_causes(&self) {
        // What an earlier run lost is still set.
        self.set(ICR, u32::MAX);
        self.set(IVAR, RX_QUEUE_0_HAS_VECTOR_0);
        self.set(EIAC, RX_QUEUE_0);
    }

    fn raise(&self, cause: u32) {
        // Sending an interrupt masks its cause again.
        self.set(IMS, cause);
        self.set(ICS, cause);
    }

    fn eventfd(&self, vector: u32) -> Result<&EventFd, Box<dyn Error>> {
        Ok(self.vectors.get(Vector(vector).index()).ok_or("no such vector")?)
    }

    /// Throttled interrupts are sent late, and now and then twice: waits until that is over.
    fn settle(&self) -> Result<(), Box<dyn Error>> {
        sleep(Duration::from_millis(100));
        // An error says that there is none, which is as good.
        let _ = self.eventfd(0)?.read();
        Ok(())
    }

    fn arrives(&self, vector: u32) -> Result<bool, Box<dyn Error>> {
        let eventfd = self.eventfd(vector)?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if eventfd.read().is_ok() {
                return Ok(true);
            }
            sleep(Duration::from_millis(1));
        }
        Ok(false)
    }
}

fn eventfds() -> std::io::Result<Vec<EventFd>> {
    (0..VECTORS).map(|_| EventFd::new(EFD_NONBLOCK)).collect()
}
