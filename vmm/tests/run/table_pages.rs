//! MSI-X table pages on real KVM: a guest writes an entry by an exit and reads it back without one.

use std::sync::Arc;

use kvm_ioctls::{Kvm, VcpuExit};
use vm_memory::{Bytes, GuestAddress, MmapRegion, VolatileMemory};
use vm_msi::MsixFunction;
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::testing::{Failures, FakeBackend, FakeRouter};
use vmm::memory::{Access, Slots};
use vmm::vfio::table_pages::TablePages;

/// Address of the table and base of the data segment.
const TABLE: u64 = 0x1_0000;
/// Address of the code.
const CODE: u64 = 0x1000;

/// Real-mode code with the port in DX: reads a DWORD of the table's last entry and outputs it, writes the DWORD, and
/// reads and outputs it again. Then it sets the entry's Vector Control by a read-modify-write, and outputs both.
#[rustfmt::skip]
const GUEST: &[u8] = &[
    0x66, 0xa1, 0xf0, 0x0f,                               // mov eax, [0xff0]
    0x66, 0xef,                                           // out dx, eax
    0x66, 0xc7, 0x06, 0xf0, 0x0f, 0x78, 0x56, 0x34, 0x12, // mov dword [0xff0], 0x12345678
    0x66, 0xa1, 0xf0, 0x0f,                               // mov eax, [0xff0]
    0x66, 0xef,                                           // out dx, eax
    0x66, 0x83, 0x26, 0xfc, 0x0f, 0xfe,                   // and dword [0xffc], ~1
    0x66, 0xa1, 0xfc, 0x0f,                               // mov eax, [0xffc]
    0x66, 0xef,                                           // out dx, eax
    0xf4,                                                 // hlt
];

#[derive(Debug, PartialEq)]
enum Exit {
    Shows(u32),
    Reads(u64),
    Writes(u64, u32),
}

/// The guest's exits until it halts. Its table accesses are emulated.
fn exits(access: Option<Access>) -> Vec<Exit> {
    let vm = Arc::new(Kvm::new().and_then(|kvm| kvm.create_vm()).expect("/dev/kvm"));
    let slots = Slots::new(Arc::clone(&vm));
    let ram = Arc::new(MmapRegion::new(0x1000).unwrap());
    ram.as_volatile_slice().write_slice(GUEST, 0).unwrap();
    let _ram = slots.map(GuestAddress(CODE), ram, 0..0x1000, Access::ReadWrite).unwrap();

    let bar = Bar::new(0).unwrap();
    let layout = Layout::new(TableSize::new(256).unwrap(), (bar, 0), (bar, 0x1000)).unwrap();
    let (router, failures) = (Arc::new(FakeRouter::new(Failures::default())), Failures::default());
    let function = MsixFunction::new(layout, router, FakeBackend::new(failures));
    let pages = TablePages::new(0..0x1000).unwrap().unwrap();
    pages.update_all(|offset, data| function.read_table(offset, data));
    let (_, memory) = pages.part();
    let _pages = access.map(|access| slots.map(GuestAddress(TABLE), memory, 0..0x1000, access).unwrap());

    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut special = vcpu.get_sregs().unwrap();
    (special.cs.base, special.cs.selector) = (0, 0);
    (special.ds.base, special.ds.selector) = (TABLE, (TABLE >> 4) as u16);
    vcpu.set_sregs(&special).unwrap();
    let mut registers = vcpu.get_regs().unwrap();
    (registers.rip, registers.rdx, registers.rflags) = (CODE, 0x80, 2);
    vcpu.set_regs(&registers).unwrap();

    let mut exits = Vec::new();
    loop {
        match vcpu.run().unwrap() {
            VcpuExit::IoOut(_, data) => exits.push(Exit::Shows(u32::from_le_bytes(data.try_into().unwrap()))),
            VcpuExit::MmioRead(address, data) => {
                function.read_table(address - TABLE, data);
                exits.push(Exit::Reads(address - TABLE));
            }
            VcpuExit::MmioWrite(address, data) => {
                let at = address - TABLE;
                function.write_table(at, data);
                pages.update(at..at + data.len() as u64, |offset, data| function.read_table(offset, data));
                exits.push(Exit::Writes(at, u32::from_le_bytes(data.try_into().unwrap())));
            }
            VcpuExit::Hlt => return exits,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn pages_of_the_table_are_read_without_an_exit_and_written_with_one() {
    use Exit::{Reads, Shows, Writes};
    let shown = [Shows(0), Writes(0xff0, 0x1234_5678), Shows(0x1234_5678), Writes(0xffc, 0), Shows(0)];
    assert_eq!(exits(Some(Access::ReadOnly)), shown);
    // The same values with every access trapped.
    let trapped = exits(None);
    assert_eq!(trapped.iter().filter(|exit| matches!(exit, Reads(_))).count(), 4);
    let rest: Vec<_> = trapped.into_iter().filter(|exit| !matches!(exit, Reads(_))).collect();
    assert_eq!(rest, shown);
}

#[test]
fn a_range_that_kvm_refuses_stays_as_it_is_and_can_be_had_later() {
    let vm = Arc::new(Kvm::new().and_then(|kvm| kvm.create_vm()).expect("/dev/kvm"));
    let slots = Slots::new(vm);
    let map = |access| {
        let page = Arc::new(MmapRegion::new(0x1000).unwrap());
        slots.map(GuestAddress(TABLE), page, 0..0x1000, access)
    };
    let first = map(Access::ReadWrite).unwrap();
    let refused = map(Access::ReadOnly).unwrap_err().to_string();
    assert!(refused.starts_with("mapping 0x1000 bytes into the guest at 0x10000"), "{refused}");
    // The refused slot leaves the first one: its range is still in use.
    map(Access::ReadOnly).unwrap_err();
    assert_eq!(first.guest(), TABLE..TABLE + 0x1000);
    drop(first);
    assert_eq!(map(Access::ReadOnly).unwrap().guest(), TABLE..TABLE + 0x1000);
}
