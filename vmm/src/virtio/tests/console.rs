//! The console device (virtio 1.2 §5.3), on pipes.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use vm_memory::{Bytes, GuestAddress};

use super::super::console::size::Size;
use super::super::console::{Console, Ends};
use super::driver::QueueDriver;
use super::*;
use crate::outcome::{ExitEvent, Outcome};
use crate::serial::input::Source;

const F_SIZE: u64 = 1;
const BUFFER: u64 = 0x8_0000;

/// A console's machine, the ends of its pipes, and its queues.
struct Terminal {
    machine: Machine,
    keys: std::io::PipeWriter,
    screen: std::io::PipeReader,
    exit_event: Arc<ExitEvent>,
    config: Arc<DeviceConfig>,
    queues: [QueueDriver; 2],
}

impl Terminal {
    fn new(source: Source) -> Self {
        let (input, keys) = std::io::pipe().unwrap();
        let (screen, output) = std::io::pipe().unwrap();
        let ends = Ends { input: OwnedFd::from(input), output: OwnedFd::from(output), source };
        let exit_event = ExitEvent::new().unwrap();
        let (model, config) = Console::model(ends, Size { columns: 80, rows: 25 }, Arc::clone(&exit_event));
        let machine = Machine::of(model);
        machine.enable_msix();
        let mut queues =
            [0, 1].map(|index| QueueDriver::new(index, 0x2_0000 + u64::from(index) * QueueDriver::BYTES, 64));
        machine.drive_queues(COMMON_FEATURES | F_SIZE, &mut queues);
        assert_eq!(machine.router.take_delivered(), [message(0)], "the driver is told to read the size");
        Self { machine, keys, screen, exit_event, config, queues }
    }

    /// Offers a buffer for input.
    fn offer(&mut self, len: u32) {
        self.queues[0].offer(&self.machine, &[], &[(BUFFER, len)]);
        self.queues[0].kick(&self.machine);
        self.machine.settle();
    }

    /// The input in the buffer that was offered.
    fn received(&mut self) -> Vec<u8> {
        let used = self.queues[0].take_used(&self.machine);
        let [(_, len)] = used[..] else { panic!("{used:?}") };
        let mut bytes = vec![0; len as usize];
        self.machine.memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
        bytes
    }

    /// Has the guest show these bytes.
    fn show(&mut self, bytes: &[u8]) {
        self.machine.memory.write_slice(bytes, GuestAddress(BUFFER)).unwrap();
        self.queues[1].offer(&self.machine, &[(BUFFER, bytes.len() as u32)], &[]);
        self.queues[1].kick(&self.machine);
        self.machine.settle();
    }
}

#[test]
fn what_is_typed_reaches_the_guest_before_and_after_it_has_buffers() {
    let mut terminal = Terminal::new(Source::Stream);
    terminal.keys.write_all(b"early\x01x").unwrap();
    terminal.machine.settle();
    terminal.offer(4);
    assert_eq!(terminal.received(), b"earl");
    terminal.offer(100);
    assert_eq!(terminal.received(), b"y\x01x", "a pipe has no escape");
    terminal.offer(100);
    assert!(terminal.queues[0].take_used(&terminal.machine).is_empty());
    terminal.keys.write_all(b"late").unwrap();
    terminal.machine.settle();
    assert_eq!(terminal.received(), b"late");
}

#[test]
fn the_guests_output_is_shown_in_order() {
    let mut terminal = Terminal::new(Source::Stream);
    for line in [&b"one\n"[..], b"two\n"] {
        terminal.show(line);
    }
    let mut shown = [0; 8];
    terminal.screen.read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"one\ntwo\n");
    assert_eq!(terminal.queues[1].take_used(&terminal.machine).len(), 2);
}

#[test]
fn output_waits_for_a_reader_and_none_is_lost() {
    let mut terminal = Terminal::new(Source::Stream);
    // More than a pipe takes.
    let bytes: Vec<u8> = (0..200_000u32).map(|at| (at / 7) as u8).collect();
    terminal.show(&bytes);
    assert!(terminal.queues[1].take_used(&terminal.machine).is_empty());
    let mut shown: Vec<u8> = Vec::new();
    while shown.len() < bytes.len() {
        let mut part = [0; 10_000];
        let count = terminal.screen.read(&mut part).unwrap();
        shown.extend(&part[..count]);
        terminal.machine.settle();
    }
    assert!(shown == bytes);
    assert_eq!(terminal.queues[1].take_used(&terminal.machine).len(), 1);
}

#[test]
fn the_escape_of_a_terminal_ends_the_run_without_a_buffer() {
    let mut terminal = Terminal::new(Source::Terminal);
    terminal.keys.write_all(b"a\x01").unwrap();
    terminal.machine.settle();
    assert!(!terminal.exit_event.is_signalled());
    terminal.keys.write_all(b"x").unwrap();
    terminal.machine.settle();
    assert!(matches!(terminal.exit_event.take(), Some(Outcome::Stopped(2))));
    terminal.offer(10);
    assert_eq!(terminal.received(), b"a");
}

#[test]
fn a_closed_end_stops_neither_direction() {
    let mut terminal = Terminal::new(Source::Stream);
    let Terminal { keys, screen, .. } = &mut terminal;
    drop(std::mem::replace(keys, std::io::pipe().unwrap().1));
    drop(std::mem::replace(screen, std::io::pipe().unwrap().0));
    terminal.offer(10);
    terminal.show(b"nobody reads this");
    assert_eq!(terminal.queues[1].take_used(&terminal.machine).len(), 1);
    assert!(terminal.queues[0].take_used(&terminal.machine).is_empty());
    assert_eq!(terminal.machine.turn(), Turn::Idle);
}

#[test]
fn invalid_chains_are_used_and_counted() {
    let mut terminal = Terminal::new(Source::Stream);
    terminal.keys.write_all(b"abc").unwrap();
    terminal.queues[0].offer(&terminal.machine, &[(BUFFER, 8)], &[]);
    terminal.queues[0].offer(&terminal.machine, &[], &[(RAM - 2, 8)]);
    terminal.queues[0].kick(&terminal.machine);
    terminal.machine.settle();
    assert_eq!(terminal.queues[0].take_used(&terminal.machine).len(), 2);
    terminal.queues[1].offer(&terminal.machine, &[(u64::MAX - 4, 100)], &[]);
    terminal.queues[1].kick(&terminal.machine);
    terminal.machine.settle();
    assert_eq!(terminal.queues[1].take_used(&terminal.machine).len(), 1);
    let report = terminal.machine.transport.report();
    assert_eq!((&report["queues"][0]["invalid"], &report["queues"][1]["invalid"]), (&2.into(), &1.into()));
}

#[test]
fn another_size_of_the_terminal_is_told() {
    let terminal = Terminal::new(Source::Stream);
    let size = || terminal.machine.read::<4>(at::DEVICE_CONFIG);
    assert_eq!(size(), 25 << 16 | 80);
    terminal.config.update(0, &[100, 0, 50, 0]);
    assert_eq!(size(), 50 << 16 | 100);
    assert_eq!(terminal.machine.router.take_delivered(), [message(0)], "the configuration's vector");
}
