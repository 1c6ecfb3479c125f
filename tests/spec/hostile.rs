//! Accesses of every offset, width and value, also those that the specification leaves undefined: none stops
//! the function, none reaches what is not its own.

use vm_msi::msix::Bar;

use crate::fixture::{ENABLE, Fixture, VECTORS, message};

const VALUES: [u8; 4] = [0x00, 0xff, 0xa5, 0x01];

#[test]
fn every_access_to_configuration_space_is_answered() {
    let fixture = Fixture::using([3]);
    for offset in 0..64u16 {
        for len in 0..=16 {
            for value in VALUES {
                fixture.function.write_config(offset, &vec![value; len]);
                fixture.function.read_config(offset, &mut vec![0; len]);
            }
        }
    }
    fixture.set_control(ENABLE);
    fixture.set_mask(3, 0);
    fixture.set_message(3, message(3));
    assert_eq!(fixture.raise(3), [message(3)], "the function still works");
}

#[test]
fn every_access_to_table_and_pending_bits_is_answered() {
    let fixture = Fixture::using([3]);
    let end = u64::from(VECTORS) * 16 + 32;
    for offset in (0..end).chain(u64::MAX - 20..=u64::MAX) {
        for len in 0..=17 {
            for value in VALUES {
                fixture.function.write_table(offset, &vec![value; len]);
                fixture.function.read_table(offset, &mut vec![0; len]);
                fixture.function.read_pba(offset, &mut vec![0; len]);
            }
        }
    }
    fixture.set_message(3, message(3));
    fixture.set_mask(3, 0);
    assert_eq!(fixture.raise(3), [message(3)], "the function still works");
}

#[test]
fn other_registers_of_a_shared_bar_get_exactly_their_bytes() {
    let fixture = Fixture::using([]);
    let bar = Bar::new(2).unwrap();
    let (start, end) = (0x2000u64, 0x2000 + u64::from(VECTORS) * 16);
    for offset in (start - 20..start + 4).chain(end - 20..end + 4) {
        for len in 0..=17u64 {
            let mut seen = Vec::new();
            let data = vec![0; len as usize];
            fixture.function.write_bar(bar, offset, &data, |at, part| seen.push(at..at + part.len() as u64));
            let mut read = Vec::new();
            let mut data = vec![0; len as usize];
            fixture
                .function
                .read_bar(bar, offset, &mut data, |at, part| read.push(at..at + part.len() as u64));
            assert_eq!(seen, read);
            let bytes: Vec<u64> = seen.into_iter().flatten().collect();
            let own = |at: &u64| (start..end).contains(at);
            let expected: Vec<u64> = (offset..offset + len).filter(|at| !own(at)).collect();
            assert_eq!(bytes, expected);
        }
    }
}
