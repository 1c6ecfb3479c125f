//! MSI-X: the bytes of the table, and two bits of Message Control.

use super::{Reference, Write, entry, own_message};
use crate::backend::{Capabilities, Growth};
use crate::domain::Domain;
use crate::function::InterruptFunction;
use crate::message::MsiMessage;
use crate::msix::{Layout, Msix};
use crate::remap::handle;
use crate::testing::Op;

/// The expected registers of an MSI-X function.
#[derive(Clone, Debug)]
pub struct MsixReference {
    table: Vec<u8>,
    enable: bool,
    function_mask: bool,
}

impl MsixReference {
    /// The registers after power-on, with `vectors` vectors.
    pub fn new(vectors: u16) -> Self {
        let masked = [[0; 12].as_slice(), &[1, 0, 0, 0]].concat();
        Self { table: masked.repeat(vectors.into()), enable: false, function_mask: false }
    }

    /// The expected table.
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// Writes the table byte by byte.
    pub fn write_table(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            if let Some(register) = self.table.get_mut(at) {
                *register = match at % 16 {
                    12 => byte & 1,
                    13..16 => 0,
                    _ => *byte,
                };
            }
        }
    }

    /// Writes the capability. Only the byte with Function Mask and MSI-X Enable matters.
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let Some(byte) = 3usize.checked_sub(offset).and_then(|at| data.get(at)) {
            (self.enable, self.function_mask) = (byte & 0x80 != 0, byte & 0x40 != 0);
        }
    }
}

impl Reference for MsixReference {
    type Layout = Layout;
    type Registers = Msix;
    type Write = Write;

    fn at_power_on(layout: &Layout) -> Self {
        Self::new(layout.size().get())
    }

    fn device(&self) -> Capabilities {
        Capabilities {
            vectors: self.vectors() as u32,
            growth: Growth::Dynamic,
            independent: true,
            multi_message: false,
            ims: false,
            cookies: false,
        }
    }

    fn vectors(&self) -> usize {
        self.table.len() / 16
    }

    fn reset(&mut self) {
        *self = Self::new(self.vectors() as u16);
    }

    fn write(&self, op: &Op) -> Option<Write> {
        let vectors = self.vectors() as u16;
        let at = |vector: u16| usize::from(vector % vectors) * 16;
        Some(match *op {
            Op::Message { vector, version } => {
                Write::Table(at(vector), entry(own_message(usize::from(vector % vectors), version)))
            }
            Op::Mask { vector, masked } => Write::Table(at(vector) + 12, vec![masked.into(), 0, 0, 0]),
            Op::Clear(vector) => Write::Table(at(vector), vec![0; 12]),
            Op::Control(bits) => Write::Config(2, (u16::from(bits & 3) << 14).to_le_bytes().to_vec()),
            Op::WriteTable { offset, data, len } => {
                Write::Table(offset.into(), data[..usize::from(len % 9)].to_vec())
            }
            Op::WriteConfig { offset, data, len } => {
                Write::Config(usize::from(offset % 32), data[..usize::from(len % 9)].to_vec())
            }
            Op::Handle { vector, entry: index } => {
                Write::Table(at(vector), entry(handle::message(index.into())))
            }
            _ => return None,
        })
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::Table(offset, data) => self.write_table(*offset, data),
            Write::Config(offset, data) => self.write_config(*offset, data),
        }
    }

    fn perform<D: Domain>(&self, write: &Write, function: &InterruptFunction<Msix, D>) {
        match write {
            Write::Table(offset, data) => function.write_table(*offset as u64, data),
            Write::Config(offset, data) => function.write_config(*offset as u16, data),
        }
    }

    fn is_enabled(&self) -> bool {
        self.enable
    }

    fn message(&self, vector: usize) -> Option<MsiMessage> {
        let entry = &self.table[vector * 16..][..16];
        let register = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("4 bytes"));
        let unmasked = self.enable && !self.function_mask && entry[12] == 0;
        unmasked.then(|| MsiMessage::from_registers(register(0), register(4), register(8)))
    }

    fn check<D: Domain>(&self, function: &InterruptFunction<Msix, D>) {
        let mut table = vec![0; self.table.len()];
        function.read_table(0, &mut table);
        assert_eq!(table, self.table, "the table reads as it was written");
    }

    fn pending<D: Domain>(&self, function: &InterruptFunction<Msix, D>) -> Option<Vec<bool>> {
        let mut pba = vec![0; self.vectors().div_ceil(64) * 8];
        function.read_pba(0, &mut pba);
        let mut bits: Vec<bool> =
            pba.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)).collect();
        let beyond = bits.split_off(self.vectors());
        assert!(!beyond.contains(&true), "bits beyond the table are 0");
        Some(bits)
    }
}
