//! States from a hostile source. Each is restored into a function in use, or refused with nothing changed.

use std::sync::Arc;

use super::{Failures, FakeBackend, FakeRouter};
use crate::delivery::Vector;
use crate::function::MsixFunction;
use crate::msix::{Bar, Layout, MsixState, TableSize};
use crate::state::{FunctionState, RestoreError, Resume, resume_all};

/// A function in use. The first of its 1 to 2048 vectors is live. The last is masked, and an interrupt of it
/// waits.
#[derive(Debug)]
struct InUse {
    function: MsixFunction,
    router: Arc<FakeRouter>,
    backend: FakeBackend,
}

impl InUse {
    fn new(vectors: u16) -> Self {
        let size = TableSize::new(vectors).expect("1 to 2048 vectors");
        let bar = Bar::new(0).expect("a BAR");
        let layout = Layout::new(size, (bar, 0), (bar, 0x8000)).expect("a layout");
        let failures = Failures::default();
        let router = Arc::new(FakeRouter::new(failures.clone()));
        let backend = FakeBackend::new(failures);
        let function = MsixFunction::new(layout, router.clone(), backend.clone());
        function.write_config(2, &0x8000u16.to_le_bytes());
        let last = vectors - 1;
        for vector in [last, 0] {
            let message = [0xfee0_0000u32, 0, 0x41, 0].map(u32::to_le_bytes).concat();
            function.write_table(u64::from(vector) * 16, &message);
        }
        if last > 0 {
            function.write_table(u64::from(last) * 16 + 12, &[1]);
            backend.raise(Vector(last.into()));
        }
        Self { function, router, backend }
    }
}

/// Restores any state into a function in use with `vectors` vectors. Checks that the function has the state
/// afterwards, or is unchanged.
///
/// # Errors
/// The error of the restore.
pub fn restore_anything(vectors: u16, state: &FunctionState<MsixState>) -> Result<(), RestoreError> {
    let InUse { function, router, backend } = InUse::new(vectors);
    let now = || function.suspend().expect("the fake detaches");
    let before = now();
    resume_all(&*router, [&function as &dyn Resume]);
    let in_use = (router.in_use(), backend.in_use());

    let restored = function.restore(state);
    if restored.is_err() {
        assert_eq!((router.in_use(), backend.in_use()), in_use, "the function was not touched");
    }
    assert_eq!(now(), if restored.is_ok() { state.clone() } else { before });
    let mut capability = [0; 12];
    function.read_config(0, &mut capability);
    let [id, next, low, high, windows @ ..] = capability;
    assert_eq!(
        (id, next, u16::from_le_bytes([low, high]) & 0x3fff),
        (0x11, 0, vectors - 1),
        "read-only bits"
    );
    assert_eq!(windows, [0, 0, 0, 0, 0, 0x80, 0, 0], "where table and pending bits are");
    router.take_delivered();
    resume_all(&*router, [&function as &dyn Resume]);
    let (owed, delivered) = (state.pending.vectors().count(), router.take_delivered().len());
    assert!(restored.is_err() || delivered <= owed, "{delivered} delivered of {owed}");
    assert_eq!(function.failed_steps(), 0);
    drop(function);
    assert_eq!((router.in_use(), backend.in_use()), ((0, 0), (0, false)));
    restored
}

/// The state of the function into which [`restore_anything`] restores.
pub fn function_state(vectors: u16) -> FunctionState<MsixState> {
    InUse::new(vectors).function.suspend().expect("the fake detaches")
}
