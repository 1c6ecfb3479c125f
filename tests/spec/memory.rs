//! Messages to the guest's memory, PCIe r6 §6.1.4.4.

use vm_msi::MsiMessage;
use vm_msi::domain::State;

use crate::fixture::Fixture;

/// A DWORD that the driver polls. iPXE's network drivers set MSI-X up so.
const POLLED: MsiMessage = MsiMessage { address: 0x12_3000, data: 0xdead_beef };

/// PCIe r6 §6.1.4.4: To send a message, the function writes the data as a DWORD to the message address, which may be in memory.
#[test]
fn a_message_to_memory_is_written_there_and_never_pending() {
    for deferred in [false, true] {
        let fixture = Fixture::using([]);
        fixture.function.relay_fd().unwrap();
        if deferred {
            fixture.function.deferred_bind_fd().unwrap();
        }
        fixture.set_message(0, POLLED);
        fixture.set_mask(0, 0);
        fixture.function.bind_deferred();
        assert_eq!((fixture.bound(), fixture.function.failed_steps()), (1, 0), "it is requested");
        assert_eq!(fixture.raise(0), []);
        assert_eq!(fixture.pba(), 0);
        fixture.function.deliver_relayed();
        assert_eq!(fixture.router.take_written(), [POLLED]);
        assert_eq!(fixture.function.report().vectors[0].state, State::Relayed);
    }
}
