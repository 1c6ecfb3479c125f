//! A host that refuses now and then, below a guest whose device rings. No ring is lost.

use guest::{Result, Tools, built};
use lab::Series;

use crate::growth::assert_every_ring_came;
use crate::stage::{self, Passed, Stage};

/// What is refused often enough to demand it. Routes are committed a few times in a guest's life.
const SEEN: [&str; 3] = ["eventfd", "vfio-set-irqs", "kvm-irqfd-attach"];

/// Calls of vCPUs and of the thread that maintains vectors fail, one in so many: eventfds, host vectors, irqfds and routes.
const REFUSED: [&str; 5] = [
    "eventfd=EMFILE/8",
    "vfio-set-irqs=ENOMEM/12",
    "vfio-set-irqs=EBUSY/12",
    "kvm-irqfd-attach=ENOMEM/12",
    "kvm-set-gsi-routing=ENOMEM/2",
];

/// At least 2000 rings of vector 0, while vectors 1 to 63 are allocated and freed again and again, and one call in about ten fails.
pub(crate) fn loses_nothing_while_the_host_refuses_one_call_in_ten(stage: &Stage) -> Result<()> {
    let faults = built("faults")?.display().to_string();
    let rules = REFUSED.into_iter().flat_map(|rule| ["--refuse", rule]);
    let threads = ["vcpu", "host vectors"].into_iter().flat_map(|thread| ["--thread", thread]);
    let launcher = [faults.as_str()].into_iter().chain(rules).chain(threads).chain(["--"]);
    let machine = stage.guest(Series::V6_12, Tools::None, &[Passed::Doorbell])?.started_by(launcher);
    let seen = stage::finish(stage.start(&machine.job("pound:2000"))?)?;
    for call in SEEN {
        let line = seen.console.iter().find_map(|line| line.strip_prefix(&format!("{call}: ")));
        let line = line.unwrap_or_else(|| panic!("nothing is known of {call}: {:?}", seen.console));
        stage::say(&format!("{call}: {line}"));
        assert!(!line.starts_with("0 of"), "no {call} was refused");
    }
    let doorbell = seen.line("doorbell")?;
    assert!(doorbell.number("first_rung")? >= 2000);
    assert_every_ring_came(doorbell)
}
