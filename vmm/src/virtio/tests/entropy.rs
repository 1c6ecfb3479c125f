//! The entropy device (virtio 1.2 §5.4), and invalid requests.

use virtio_bindings::bindings::virtio_ring::VRING_DESC_F_INDIRECT;
use vm_memory::{Bytes, GuestAddress};

use super::super::rng::MOST_BYTES;
use super::{BUFFERS, ENTRIES, Machine, NEXT, RAM, WRITE};

impl Machine {
    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Offers a chain from descriptor 0 on, and returns the used length.
    fn used_for(&mut self, chain: &[(u64, u32, u32, u16)]) -> u32 {
        self.describe(chain);
        let before = self.used().0;
        self.offer(0);
        self.serve();
        assert_eq!(self.used().0, before + 1, "the request is given back");
        assert_eq!(self.status() & 0x40, 0);
        self.used().2
    }
}

#[test]
fn buffers_are_filled_with_random_bytes_and_nothing_beside_them() {
    let mut machine = Machine::driven();
    let chain = [(BUFFERS, 100, WRITE | NEXT, 1), (BUFFERS + 0x1000, 1000, WRITE, 0)];
    assert_eq!(machine.used_for(&chain), 1100);
    let first = machine.bytes(BUFFERS, 0x2000);
    assert!(first[..100].iter().any(|byte| *byte != 0));
    assert!(first[100..0x1000].iter().all(|byte| *byte == 0));
    let kinds: std::collections::BTreeSet<u8> = first[0x1000..0x1000 + 1000].iter().copied().collect();
    assert!(kinds.len() > 200, "{} different bytes in 1000", kinds.len());
    assert!(first[0x1000 + 1000..].iter().all(|byte| *byte == 0));
    machine.used_for(&chain);
    assert_ne!(machine.bytes(BUFFERS, 100), first[..100], "others each time");
}

#[test]
fn a_request_gets_64_kib_at_most() {
    let mut machine = Machine::driven();
    assert_eq!(machine.used_for(&[(BUFFERS, 0xc_0000, WRITE, 0)]), MOST_BYTES);
    assert_eq!(machine.used_for(&[(BUFFERS, u32::MAX, WRITE, 0)]), MOST_BYTES);
    let chain = [(BUFFERS, MOST_BYTES - 1, WRITE | NEXT, 1), (0x8000, 64, WRITE, 0)];
    assert_eq!(machine.used_for(&chain), MOST_BYTES);
    assert!(machine.bytes(0x8001, 63).iter().all(|byte| *byte == 0));
}

#[test]
fn a_request_without_a_writable_buffer_is_given_back_empty() {
    let mut machine = Machine::driven();
    assert_eq!(machine.used_for(&[(BUFFERS, 64, 0, 0)]), 0);
    assert_eq!(machine.used_for(&[(BUFFERS, 0, WRITE, 0)]), 0);
    assert!(machine.bytes(BUFFERS, 64).iter().all(|byte| *byte == 0), "readable buffers are not written");
    assert_eq!(machine.transport.report()["empty_requests"], 2);
}

#[test]
fn buffers_are_filled_as_far_as_they_lie_in_ram() {
    let mut machine = Machine::driven();
    assert_eq!(machine.used_for(&[(RAM - 16, 64, WRITE, 0)]), 16);
    assert_eq!(machine.used_for(&[(RAM, 64, WRITE, 0)]), 0);
    assert_eq!(machine.used_for(&[(u64::MAX - 7, 64, WRITE, 0)]), 0);
    let chain = [(RAM, 64, WRITE | NEXT, 1), (BUFFERS, 64, WRITE, 0)];
    assert_eq!(machine.used_for(&chain), 0, "nothing is written behind a gap");
}

#[test]
fn a_chain_that_loops_or_leads_nowhere_ends() {
    let mut machine = Machine::driven();
    assert_eq!(machine.used_for(&[(BUFFERS, 1, WRITE | NEXT, 0)]), u32::from(ENTRIES));
    assert_eq!(machine.used_for(&[(BUFFERS, 8, WRITE | NEXT, ENTRIES)]), 8);
    assert_eq!(machine.used_for(&[(BUFFERS, 8, WRITE | NEXT, 0xffff)]), 8);
}

#[test]
fn an_indirect_table_is_followed_for_as_many_descriptors_as_the_queue_has_entries() {
    const TABLE: u64 = 0x2_0000;
    let mut machine = Machine::driven();
    for index in 0..1000 {
        let (buffer, next) = (BUFFERS + index, index as u16 + 1);
        machine.describe_at(TABLE, index, buffer, 1, (WRITE | NEXT) as u16, next);
    }
    let indirect = |table, len| [(table, len, VRING_DESC_F_INDIRECT, 0)];
    assert_eq!(machine.used_for(&indirect(TABLE, 16 * 1000)), u32::from(ENTRIES));
    assert_eq!(machine.used_for(&indirect(TABLE, 16 * 3)), 3);
    assert_eq!(machine.used_for(&indirect(TABLE, 17)), 0, "no whole descriptors");
    assert_eq!(machine.used_for(&indirect(RAM, 16)), 0);
    // An indirect table in an indirect table.
    machine.describe_at(TABLE, 0, TABLE, 16, VRING_DESC_F_INDIRECT as u16, 0);
    assert_eq!(machine.used_for(&indirect(TABLE, 16)), 0);
}
