//! MSI: the bytes of the capability, and the writable bits of each.

use super::{Reference, Write};
use crate::backend::{Capabilities, Growth};
use crate::domain::Domain;
use crate::function::InterruptFunction;
use crate::message::MsiMessage;
use crate::msi::{AddressWidth, Msi, MsiLayout, VectorMasking};
use crate::remap::handle;
use crate::testing::Op;

/// The expected registers of an MSI function.
#[derive(Clone, Debug)]
pub struct MsiReference {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    /// How many messages the function supports.
    messages: u32,
    /// The offset of Message Data.
    data: usize,
    /// The offset of Mask Bits. Pending Bits follows.
    mask: Option<usize>,
}

impl MsiReference {
    fn dword(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    /// How many messages the function has: Multiple Message Enable, limited to the number that it supports.
    fn granted(&self) -> u32 {
        (1 << (self.bytes[2] >> 4 & 7)).min(self.messages)
    }

    /// A write of address and data in one access.
    fn write_message(&self, MsiMessage { address, data }: MsiMessage) -> Write {
        let address = address.to_le_bytes();
        Write::Config(4, [&address[..self.data - 4], &data.to_le_bytes()[..2]].concat())
    }
}

impl Reference for MsiReference {
    type Layout = MsiLayout;
    type Registers = Msi;
    type Write = Write;

    fn at_power_on(layout: &MsiLayout) -> Self {
        let messages = layout.messages().get();
        let (address_64, data) = match layout.address() {
            AddressWidth::Bits32 => (0, 8),
            AddressWidth::Bits64 => (0x80, 12),
        };
        let mut writable = vec![0, 0, 0x71, 0, 0xfc, 0xff, 0xff, 0xff];
        writable.resize(data, 0xff);
        writable.extend([0xff, 0xff, 0, 0]);
        let mask = (layout.masking() == VectorMasking::Present).then_some(data + 4);
        if mask.is_some() {
            writable.extend((u32::MAX >> (32 - messages)).to_le_bytes());
            writable.extend([0; 4]);
        }
        let mut bytes = vec![0; writable.len()];
        let control = [0x05, 0, (messages.ilog2() as u8) << 1 | address_64, mask.is_some().into()];
        bytes[..4].copy_from_slice(&control);
        Self { bytes, writable, messages, data, mask }
    }

    /// MSI vectors are one block.
    fn device(&self) -> Capabilities {
        Capabilities {
            vectors: self.messages,
            growth: Growth::Reserved,
            independent: false,
            multi_message: true,
            ims: false,
            cookies: false,
        }
    }

    fn vectors(&self) -> usize {
        self.messages as usize
    }

    fn reset(&mut self) {
        self.bytes.iter_mut().zip(&self.writable).for_each(|(byte, writable)| *byte &= !writable);
    }

    fn write(&self, op: &Op) -> Option<Write> {
        Some(match *op {
            // The low bits of the data have any value, because the function replaces them.
            Op::Message { vector, version } => self.write_message(MsiMessage {
                address: 0xfee0_0000 | u64::from(vector % 256) << 12,
                data: 0x20 + u32::from(version % 200),
            }),
            Op::Mask { vector, masked } => {
                let at = self.mask?;
                let bit = 1 << (u32::from(vector) % self.messages);
                let others = self.dword(at) & !bit;
                Write::Config(at, (others | if masked { bit } else { 0 }).to_le_bytes().to_vec())
            }
            Op::Clear(_) => self.write_message(MsiMessage::BLANK),
            Op::Control(bits) => Write::Config(2, vec![bits << 2 & 0x70 | bits >> 1 & 1]),
            Op::WriteTable { .. } => return None,
            Op::WriteConfig { offset, data, len } => {
                Write::Config(usize::from(offset % 32), data[..usize::from(len % 9)].to_vec())
            }
            // Each vector names an entry of its own, or all name one.
            Op::Handle { vector, entry } => {
                let message = handle::message(entry.into());
                let all_one = if vector % 2 == 0 { 0 } else { 8 };
                self.write_message(MsiMessage { address: message.address & !all_one, ..message })
            }
            _ => return None,
        })
    }

    fn apply(&mut self, write: &Write) {
        let Write::Config(offset, data) = write else { return };
        for (at, byte) in (*offset..).zip(data) {
            if let (Some(register), Some(writable)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *register = *register & !writable | byte & writable;
            }
        }
    }

    fn perform<D: Domain>(&self, write: &Write, function: &InterruptFunction<Msi, D>) {
        match write {
            Write::Table(..) => {}
            Write::Config(offset, data) => function.write_config(*offset as u16, data),
        }
    }

    fn is_enabled(&self) -> bool {
        self.bytes[2] & 1 == 1
    }

    /// The message, with the vector's number in the low bits of the data.
    fn message(&self, vector: usize) -> Option<MsiMessage> {
        let (vector, granted) = (vector as u32, self.granted());
        let masked = self.mask.is_some_and(|at| self.dword(at) >> vector & 1 == 1);
        let high = if self.data == 12 { self.dword(8) } else { 0 };
        let base = self.dword(self.data) / granted * granted;
        let message = MsiMessage::from_registers(self.dword(4), high, base + vector);
        (self.is_enabled() && vector < granted && !masked).then_some(message)
    }

    fn check<D: Domain>(&self, function: &InterruptFunction<Msi, D>) {
        let mut read = vec![0xff; 32];
        function.read_config(0, &mut read);
        if let Some(pending) = self.mask.map(|mask| mask + 4) {
            read[pending..pending + 4].fill(0);
        }
        let beyond = read.split_off(self.bytes.len());
        assert_eq!(read, self.bytes, "the capability reads as it was written");
        assert!(beyond.iter().all(|byte| *byte == 0), "nothing beyond the capability");
    }

    fn pending<D: Domain>(&self, function: &InterruptFunction<Msi, D>) -> Option<Vec<bool>> {
        let mut bits = [0; 4];
        function.read_config(self.mask? as u16 + 4, &mut bits);
        let bits = u32::from_le_bytes(bits);
        assert_eq!(u64::from(bits) >> self.messages, 0, "bits of vectors that the function has not are 0");
        Some((0..self.messages).map(|vector| bits >> vector & 1 == 1).collect())
    }
}
