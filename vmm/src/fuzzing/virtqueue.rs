//! Virtio queues whose memory changes under the device: entropy, disk, network, console and sockets.
//!
//! Promise: no ring of any content panics, hangs, or makes a lane work without bound, and a reset of the device completes.

use arbitrary::Arbitrary;
use vm_device::bus::MmioAddress;
use vm_device::device_manager::MmioManager;
use vm_memory::{Bytes, GuestAddress};

use super::machine::{HOST_PORT, Machine, RAM};
use crate::layout;

const MOST: usize = 256;
/// Descriptor table, available ring and used ring of queue n, from here on.
const RINGS: u64 = 0x1000;
const STRIDE: u64 = 0x1000;
const BUFFERS: u64 = 0x2_0000;

#[derive(Arbitrary, Clone, Debug)]
enum Op {
    /// A descriptor: its fields, with buffers near each other.
    Describe {
        queue: u8,
        index: u8,
        page: u8,
        length: u16,
        flags: u8,
        next: u8,
    },
    /// Makes a chain available.
    Offer {
        queue: u8,
        head: u8,
    },
    /// Any bytes in the rings.
    Scribble {
        at: u16,
        data: [u8; 4],
    },
    /// Bytes of a buffer, such as the header of a disk's request.
    Fill {
        page: u8,
        offset: u8,
        data: [u8; 16],
    },
    /// A register of the common configuration.
    Register {
        offset: u8,
        value: u32,
        width: u8,
    },
    Notify(u8),
    Packet(u16),
    /// A packet of the socket device (virtio 1.2 §5.10.6), and how much of it follows the header.
    Send {
        operation: u8,
        port: u8,
        len: u16,
        flags: u8,
        credit: [u32; 2],
        buffer: u16,
    },
    /// A program of the host asks for a port of the guest.
    Connect(ConnectLine),
    /// The host's programs read, and write so much.
    Talk(u16),
    EndProgram(u8),
    /// Serves while another thread changes the rings.
    ServeWhile([(u16, u8); 4]),
    Serve,
    Drive {
        features: u32,
    },
}

#[derive(Arbitrary, Clone, Debug)]
enum ConnectLine {
    Port(u8),
    Bytes([u8; 24]),
}

#[derive(Arbitrary, Debug)]
struct Input {
    device: u8,
    features: u32,
    ops: Vec<Op>,
}

/// # Panics
/// A promise is broken.
pub fn virtqueue(bytes: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(arbitrary::Unstructured::new(bytes)) else { return };
    let machine = Machine::new();
    let mut driver = Driver::new(&machine, input.device);
    driver.drive(input.features);
    for op in input.ops.iter().take(MOST) {
        driver.perform(op);
    }
    driver.write(0x14, &[0]);
    for _ in 0..64 {
        machine.serve();
    }
    assert_eq!(driver.status(), 0, "the reset does not complete");
    machine.root.release();
}

struct Driver<'a> {
    machine: &'a Machine,
    ecam: u64,
    bar: u64,
    available: [u16; 8],
}

impl<'a> Driver<'a> {
    /// A driver of one of the five devices, which come behind the passed-through function on the bus.
    fn new(machine: &'a Machine, device: u8) -> Self {
        let ecam = layout::PCI_ECAM.start + (u64::from(device % 5 + 2) << 15);
        let mut driver = Self { machine, ecam, bar: 0, available: [0; 8] };
        driver.bar = u64::from(driver.config_read(0x10) & !0xf);
        driver.config_write(4, &[6, 0]);
        driver
    }

    fn config_read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.machine.buses.mmio_read(MmioAddress(self.ecam + register), &mut data).expect("ECAM");
        u32::from_le_bytes(data)
    }

    fn config_write(&self, register: u64, data: &[u8]) {
        self.machine.buses.mmio_write(MmioAddress(self.ecam + register), data).expect("ECAM");
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // The buses refuse an access of no bytes.
        let written = self.machine.buses.mmio_write(MmioAddress(self.bar + offset), data);
        assert!(written.is_ok() || data.is_empty(), "the BAR is not on the bus");
    }

    fn status(&self) -> u8 {
        let mut status = [0];
        self.machine.buses.mmio_read(MmioAddress(self.bar + 0x14), &mut status).expect("the BAR");
        status[0]
    }

    /// Initialises the device with all its queues (virtio 1.2 §3.1.1).
    fn drive(&mut self, features: u32) {
        self.available = [0; 8];
        self.write(0x14, &[0]);
        self.machine.serve();
        self.write(0x14, &[3]);
        // VIRTIO_F_VERSION_1 is feature 32.
        for (half, features) in [(0u32, features), (1, 1)] {
            self.write(0x08, &half.to_le_bytes());
            self.write(0x0c, &features.to_le_bytes());
        }
        self.write(0x14, &[0xb]);
        for queue in 0..4u16 {
            let base = RINGS + u64::from(queue) * STRIDE;
            self.write(0x16, &queue.to_le_bytes());
            self.write(0x18, &64u16.to_le_bytes());
            for (register, address) in [(0x20, base), (0x28, base + 0x400), (0x30, base + 0x800)] {
                self.write(register, &(address as u32).to_le_bytes());
                self.write(register + 4, &[0; 4]);
            }
            self.write(0x1c, &1u16.to_le_bytes());
        }
        self.write(0x14, &[0xf]);
        self.machine.serve();
    }

    fn poke(&self, address: u64, data: &[u8]) {
        let address = address.min((RAM - data.len()) as u64);
        self.machine.memory.write_slice(data, GuestAddress(address)).expect("RAM");
    }

    /// Sends a packet from one of a few ports to the host, by a chain of one buffer.
    fn send(&mut self, operation: u8, port: u8, len: u32, flags: u8, credit: [u32; 2], buffer: u32) {
        const HEADER_BYTES: u32 = 44;
        let port = 1000 + u32::from(port % 4);
        let words = [3, 0, 2, 0, port, HOST_PORT, len, 1 | u32::from(operation % 9) << 16, flags.into()];
        let header: Vec<u8> = words.into_iter().chain(credit).flat_map(u32::to_le_bytes).collect();
        self.poke(BUFFERS, &header);
        let descriptor = [&BUFFERS.to_le_bytes()[..], &(HEADER_BYTES + buffer).to_le_bytes(), &[0; 4]];
        self.poke(RINGS + STRIDE, &descriptor.concat());
        self.perform(&Op::Offer { queue: 1, head: 0 });
    }

    fn perform(&mut self, op: &Op) {
        let ring = |queue: u8| RINGS + u64::from(queue % 4) * STRIDE;
        match op {
            Op::Describe { queue, index, page, length, flags, next } => {
                let at = ring(*queue) + 16 * u64::from(index % 64);
                let address = BUFFERS + u64::from(page % 64) * 0x1000;
                let fields = [&address.to_le_bytes()[..], &u32::from(*length).to_le_bytes()];
                self.poke(at, &fields.concat());
                self.poke(at + 12, &[flags & 7, 0, next % 66, 0]);
            }
            Op::Offer { queue, head } => {
                let slot = &mut self.available[usize::from(queue % 4)];
                let at = ring(*queue) + 0x404 + 2 * u64::from(*slot % 64);
                *slot = slot.wrapping_add(1);
                let available = *slot;
                self.poke(at, &[head % 65, 0]);
                self.poke(ring(*queue) + 0x402, &available.to_le_bytes());
                self.perform(&Op::Notify(*queue));
            }
            Op::Scribble { at, data } => self.poke(RINGS + u64::from(at % 0x4000), data),
            Op::Fill { page, offset, data } => {
                self.poke(BUFFERS + u64::from(page % 64) * 0x1000 + u64::from(*offset), data);
            }
            Op::Register { offset, value, width } => {
                self.write(
                    (offset % 0x40).into(),
                    value.to_le_bytes().get(..usize::from(width % 5)).unwrap_or_default(),
                );
            }
            Op::Notify(queue) => {
                self.write(0x3000 + u64::from(queue % 4) * 4, &u16::from(queue % 4).to_le_bytes())
            }
            Op::Packet(length) => drop(self.machine.peer.send(&vec![1; usize::from(length % 4096)])),
            Op::Send { operation, port, len, flags, credit, buffer } => {
                self.send(*operation, *port, u32::from(*len), *flags, *credit, u32::from(*buffer));
            }
            Op::Connect(ConnectLine::Port(port)) => {
                self.machine.host.connect(format!("CONNECT {}\n", 1000 + u32::from(port % 4)).as_bytes());
            }
            Op::Connect(ConnectLine::Bytes(line)) => self.machine.host.connect(line),
            Op::Talk(bytes) => self.machine.host.talk((*bytes).into()),
            Op::EndProgram(number) => self.machine.host.end((*number).into()),
            Op::ServeWhile(changes) => std::thread::scope(|scope| {
                scope.spawn(|| {
                    for (at, value) in changes {
                        self.poke(RINGS + u64::from(at % 0x4000), &[*value]);
                    }
                });
                self.machine.serve();
            }),
            Op::Serve => self.machine.serve(),
            Op::Drive { features } => self.drive(*features),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_initialises_each_device_and_its_requests_are_served() {
        for device in 0..5 {
            let machine = Machine::new();
            let mut driver = Driver::new(&machine, device);
            driver.drive(0);
            assert_eq!(driver.status(), 0xf, "device {device}");
            // Two buffers of 64 bytes for the device to read, and one for it to write: each device takes such a chain.
            for queue in 0..2 {
                for (index, flags) in [(0, 1), (1, 1), (2, 2)] {
                    let (page, next) = (index, index + 1);
                    driver.perform(&Op::Describe { queue, index, page, length: 64, flags, next });
                }
                driver.perform(&Op::Offer { queue, head: 0 });
            }
            driver.perform(&Op::Packet(100));
            (0..4).for_each(|_| machine.serve());
            let used = |queue: u64| -> u16 {
                machine.memory.read_obj(GuestAddress(RINGS + queue * STRIDE + 0x802)).unwrap()
            };
            assert!(used(0) + used(1) > 0, "device {device} has used nothing, status {:#x}", driver.status());
        }
    }

    #[test]
    fn a_packet_of_the_socket_device_opens_a_connection() {
        let machine = Machine::new();
        let mut driver = Driver::new(&machine, 4);
        driver.drive(1);
        // A buffer for what the device answers.
        driver.perform(&Op::Describe { queue: 0, index: 0, page: 1, length: 4096, flags: 2, next: 0 });
        driver.perform(&Op::Offer { queue: 0, head: 0 });
        driver.send(1, 0, 0, 0, [4096, 0], 0);
        (0..4).for_each(|_| machine.serve());
        let operation: u16 = machine.memory.read_obj(GuestAddress(BUFFERS + 0x1000 + 30)).unwrap();
        assert_eq!(operation, 2, "a response");
    }
}
