//! The system calls that docs/embedding.md lists for each kind of thread are all that such a thread makes, on real KVM.
//!
//! Each thread installs a seccomp filter that has the listed calls and what a Rust thread needs to end. Any other call kills the
//! process with SIGSYS: `strace -f -e trace=all` names it. VFIO's own calls are not among them, because the device is a fake.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use vm_msi::apic::DestinationIds;
use vm_msi::backend::{EventfdSet, StableEventfds};
use vm_msi::domain::BusMaster;
use vm_msi::kvm::{Irqchip, KvmRouter};
use vm_msi::maintenance::Requests;
use vm_msi::msix::{Bar, Layout, TableSize};
use vm_msi::state::{Resume, resume_all};
use vm_msi::testing::{Failures, FakeBackend};
use vm_msi::{Maintenance, MsixFunction, SoftwareMsix, Vector};

const VECTORS: u16 = 512;
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// A message to memory, which userspace delivers.
const MEMORY: u64 = 0x10_0000;
const APIC: u64 = 0xfee0_0000;

const KVM_SET_GSI_ROUTING: u64 = 0x4008_ae6a;
const KVM_IRQFD: u64 = 0x4020_ae76;
const KVM_SIGNAL_MSI: u64 = 0x4020_aea5;

/// Waits for a lock, a commit or another thread.
const LOCKS: &[c_long] = &[libc::SYS_futex];
/// The allocator of glibc. It reads /proc/sys/vm/overcommit_memory once, before it trims the heap of a thread.
const MEMORY_CALLS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_openat,
    libc::SYS_read,
    libc::SYS_close,
];
/// What attaches, detaches, binds and unbinds vectors, and asks which interrupts wait.
const VECTOR_CALLS: &[c_long] = &[
    libc::SYS_eventfd2,
    // F_DUPFD_CLOEXEC, of `StableEventfds`.
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_epoll_ctl,
    libc::SYS_ppoll,
    // The first hash set of a thread: once.
    libc::SYS_getrandom,
];
/// What delivers relayed vectors.
const RELAY_CALLS: &[c_long] = &[libc::SYS_epoll_pwait];
/// What times the rest, in `Maintenance`.
const TIMER_CALLS: &[c_long] = &[libc::SYS_timerfd_settime];
/// How a Rust thread ends.
const THREAD_END: &[c_long] = &[libc::SYS_sigaltstack, libc::SYS_rt_sigprocmask, libc::SYS_exit];

fn filter(calls: &[&[c_long]], ioctls: &[u64]) -> BpfProgram {
    let request = |request: &u64| {
        let is = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *request).unwrap();
        SeccompRule::new(vec![is]).unwrap()
    };
    let mut rules: BTreeMap<_, _> = calls.iter().copied().flatten().map(|call| (*call, vec![])).collect();
    rules.extend(THREAD_END.iter().map(|call| (*call, vec![])));
    rules.insert(libc::SYS_ioctl, ioctls.iter().map(request).collect());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, architecture);
    filter.unwrap().try_into().unwrap()
}

/// Runs on a thread of its own that can make no other calls.
fn on_thread(name: &str, filter: &BpfProgram, work: impl FnOnce() + Send + 'static) {
    let filter = filter.clone();
    let work = move || {
        seccompiler::apply_filter(&filter).unwrap();
        work();
    };
    thread::Builder::new().name(name.into()).spawn(work).unwrap().join().unwrap();
}

fn vcpu(work: impl FnOnce() + Send + 'static) {
    let calls = [LOCKS, MEMORY_CALLS, VECTOR_CALLS];
    on_thread("vcpu", &filter(&calls, &[KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_SIGNAL_MSI]), work);
}

fn maintenance(work: impl FnOnce() + Send + 'static) {
    let calls = [LOCKS, MEMORY_CALLS, VECTOR_CALLS, RELAY_CALLS, TIMER_CALLS];
    on_thread("maintenance", &filter(&calls, &[KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_SIGNAL_MSI]), work);
}

fn device(work: impl FnOnce() + Send + 'static) {
    on_thread("device", &filter(&[LOCKS, MEMORY_CALLS], &[KVM_SIGNAL_MSI]), work);
}

fn layout() -> Layout {
    let (size, bar) = (TableSize::new(VECTORS).unwrap(), Bar::new(0).unwrap());
    Layout::new(size, (bar, 0), (bar, 0x8000)).unwrap()
}

fn router() -> Arc<KvmRouter> {
    let vm = Kvm::new().unwrap().create_vm().unwrap();
    vm.create_irq_chip().unwrap();
    Arc::new(KvmRouter::new(Arc::new(vm), Irqchip::Kernel, 1, DestinationIds::Bits8).unwrap())
}

/// A message of the vector's own, unmasked or not.
fn write_entry(write: impl Fn(u64, &[u8]), vector: u16, address: u64, control: u32) {
    let entry = u64::from(vector) * 16;
    let address = address | if address == APIC { u64::from(vector / 64) << 12 } else { 0 };
    write(entry + 12, &1u32.to_le_bytes());
    write(entry, &address.to_le_bytes());
    write(entry + 8, &(0x20 + u32::from(vector % 64)).to_le_bytes());
    write(entry + 12, &control.to_le_bytes());
}

fn write_entries(function: &MsixFunction, address: u64, control: u32) {
    (0..VECTORS)
        .for_each(|vector| write_entry(|at, data| function.write_table(at, data), vector, address, control));
}

/// All that a guest can do to a function.
fn accesses(function: &MsixFunction) {
    write_entries(function, APIC, 0);
    function.write_config(2, &(ENABLE | FUNCTION_MASK).to_le_bytes());
    let mut pending = [0; 64];
    function.read_pba(0, &mut pending);
    function.write_config(2, &ENABLE.to_le_bytes());
    write_entries(function, APIC | 1 << 18, 0);
    write_entries(function, APIC, 1);
    write_entries(function, MEMORY, 0);
    write_entries(function, 0, 1);
    function.set_bus_master(BusMaster::Disabled);
    function.set_bus_master(BusMaster::Enabled);
    function.invalidate();
}

/// All that is not on a guest's path.
fn upkeep(function: &MsixFunction, maintenance: &Maintenance) {
    maintenance.run();
    while function.deferred() > 0 {
        function.bind_deferred();
    }
    function.deliver_relayed();
    function.maintain(Instant::now());
    function.retry();
    function.report();
}

#[test]
fn threads_make_the_listed_calls_only() {
    let (router, eventfds) = (router(), EventfdSet::new(VECTORS.into()).unwrap());
    let fake = FakeBackend::new(Failures::default());
    let functions = [
        Arc::new(MsixFunction::new(layout(), router.clone(), fake.clone())),
        Arc::new(MsixFunction::new(layout(), router.clone(), StableEventfds::new(eventfds.clone()))),
    ];
    let signal = move || {
        (0..VECTORS.into()).map(Vector).for_each(|vector| {
            fake.raise(vector);
            eventfds.get(vector).unwrap().write(1).unwrap();
        })
    };
    for function in functions.clone() {
        vcpu({
            let function = function.clone();
            move || {
                function.write_config(2, &ENABLE.to_le_bytes());
                accesses(&function);
                function.reset(|| {});
            }
        });
        // From here on, a thread binds what the guest begins to use, and delivers what the kernel cannot.
        let upkeep_of = Arc::new(Maintenance::new(function.clone(), Requests::Deferred).unwrap());
        function.set_release_delay(Duration::from_millis(1));
        for address in [APIC, MEMORY] {
            vcpu({
                let function = function.clone();
                move || {
                    function.write_config(2, &ENABLE.to_le_bytes());
                    write_entries(&function, address, 0);
                }
            });
            maintenance({
                let (function, own) = (function.clone(), upkeep_of.clone());
                move || upkeep(&function, &own)
            });
            signal();
            maintenance({
                let (function, own) = (function.clone(), upkeep_of.clone());
                move || upkeep(&function, &own)
            });
            vcpu({
                let function = function.clone();
                move || accesses(&function)
            });
            thread::sleep(Duration::from_millis(2));
            maintenance({
                let (function, own) = (function.clone(), upkeep_of.clone());
                move || upkeep(&function, &own)
            });
        }
        assert_eq!(function.failed_steps(), 0);
        let counters = function.report().counters;
        assert!(counters.attaches > u64::from(VECTORS), "the vectors were attached: {counters:?}");
    }
    maintenance(move || {
        let [first, second] = &functions;
        let states = [first, second].map(|function| function.suspend().unwrap());
        [first, second]
            .into_iter()
            .zip(states)
            .for_each(|(function, state)| function.restore(&state).unwrap());
        resume_all(&*router, [first, second].map(|function| &**function as &dyn Resume));
        first.rearm();
        second.tear_down();
    });
}

#[test]
fn a_device_model_signals_and_makes_no_other_call() {
    let model = Arc::new(SoftwareMsix::software(layout(), router()));
    let unmask = |model: &SoftwareMsix| write_entry(|at, data| model.write_table(at, data), 0, APIC, 0);
    let triggers = {
        let model = model.clone();
        move || (0..100).for_each(|_| model.trigger(Vector(0)))
    };
    device(triggers.clone());
    vcpu({
        let model = model.clone();
        move || {
            model.write_config(2, &ENABLE.to_le_bytes());
            unmask(&model);
        }
    });
    device(triggers);
    let counters = model.counters();
    // No vCPU accepts them.
    assert!(counters.unaccepted + counters.delivered > 0, "{counters:?}");
}
