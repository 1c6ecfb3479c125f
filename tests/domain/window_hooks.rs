//! The hooks around an enabled capability of the host: the embedder disables INTx before it and enables INTx after it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::fixture::{ENABLE, Fixture, message};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    BeforeOpen,
    AfterClose,
}
use Call::{AfterClose, BeforeOpen};

#[derive(Clone, Default)]
struct Intx {
    calls: Arc<Mutex<Vec<Call>>>,
    refuses: Arc<AtomicBool>,
}

impl Intx {
    fn of(fixture: &Fixture) -> Self {
        let intx = Self::default();
        let (opens, closes) = (intx.clone(), intx.clone());
        let before_open = move || {
            opens.calls.lock().unwrap().push(BeforeOpen);
            if opens.refuses.load(Ordering::Relaxed) { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        };
        let after_close = move || closes.calls.lock().unwrap().push(AfterClose);
        fixture.function.set_window_hooks(before_open, after_close);
        intx
    }

    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

/// MSI-X is off. Vector 3 has a message and is unmasked.
fn fixture() -> (Fixture, Intx) {
    let fixture = Fixture::after_reset();
    fixture.set_message(3, message(3));
    fixture.set_mask(3, 0);
    let intx = Intx::of(&fixture);
    (fixture, intx)
}

#[test]
fn intx_is_off_while_msix_is_on() {
    let (fixture, intx) = fixture();
    fixture.set_control(ENABLE);
    assert_eq!(intx.take(), [BeforeOpen]);
    fixture.set_mask(3, 1);
    fixture.set_mask(3, 0);
    assert_eq!((fixture.raise(3), intx.take()), (vec![message(3)], vec![]));
    fixture.set_control(0);
    assert_eq!(intx.take(), [AfterClose]);
    fixture.set_control(ENABLE);
    fixture.reset();
    assert_eq!(intx.take(), [BeforeOpen, AfterClose]);
}

#[test]
fn intx_is_on_again_where_the_host_refuses_msix() {
    let (fixture, intx) = fixture();
    fixture.refuse(1);
    fixture.set_control(ENABLE);
    assert_eq!(intx.take(), [BeforeOpen, AfterClose]);
    fixture.function.retry();
    assert_eq!(intx.take(), [BeforeOpen]);
    assert_eq!(fixture.raise(3), [message(3)]);
}

#[test]
fn intx_stays_off_while_the_host_refuses_to_turn_msix_off() {
    let (fixture, intx) = fixture();
    fixture.set_control(ENABLE);
    fixture.refuse(1);
    fixture.set_control(0);
    assert_eq!((intx.take(), fixture.function.failed_steps()), (vec![BeforeOpen], 1));
    fixture.function.retry();
    assert_eq!((intx.take(), fixture.function.failed_steps()), (vec![AfterClose], 0));
}

#[test]
fn intx_that_cannot_be_turned_off_leaves_every_vector_held_and_is_tried_again() {
    let (fixture, intx) = fixture();
    intx.refuses.store(true, Ordering::Relaxed);
    fixture.set_control(ENABLE);
    assert_eq!((intx.take(), fixture.function.failed_steps()), (vec![BeforeOpen, AfterClose], 1));
    assert_eq!(fixture.bound(), 0);
    intx.refuses.store(false, Ordering::Relaxed);
    fixture.function.retry();
    assert_eq!((intx.take(), fixture.raise(3)), (vec![BeforeOpen], vec![message(3)]));
}

#[test]
fn intx_is_on_again_when_the_function_ends() {
    let (fixture, intx) = fixture();
    fixture.set_control(ENABLE);
    drop(fixture);
    assert_eq!(intx.take(), [BeforeOpen, AfterClose]);
    let (fixture, intx) = self::fixture();
    fixture.set_control(ENABLE);
    fixture.function.tear_down();
    assert_eq!(intx.take(), [BeforeOpen, AfterClose]);
}
