//! The report of an interrupt function with a software domain: capacity, counters, and the vectors in use.

use serde_json::{Value, json};
use vm_msi::domain::SoftwareDomain;
use vm_msi::{Delivery, InterruptFunction, MsiMessage, Registers, Vector};

/// The store's part of the report.
pub(crate) fn software<C: Registers>(function: &InterruptFunction<C, SoftwareDomain>) -> Value {
    let vectors = function.capacity();
    let groups = 0..vectors.div_ceil(64);
    let in_use = groups.flat_map(|group| {
        let pending = function.pending(group);
        let first = group.saturating_mul(64);
        let deliveries: Vec<_> = function.look(|store| {
            let vectors = (first..vectors).take(64).map(Vector);
            vectors.map(|vector| (vector, store.delivery(vector))).collect()
        });
        let bits = (0..64u32).map(move |bit| pending.wrapping_shr(bit) & 1 == 1);
        let vectors = deliveries.into_iter().zip(bits);
        let in_use = vectors.filter(|((_, delivery), is_pending)| *is_pending || *delivery != Delivery::Off);
        in_use.map(|((vector, delivery), is_pending)| row(vector, delivery, is_pending))
    });
    json!({ "vectors": vectors, "counters": function.counters(), "in_use": in_use.collect::<Vec<_>>() })
}

fn row(vector: Vector, delivery: Delivery, pending: bool) -> Value {
    let (state, message) = match delivery {
        Delivery::Off => ("off", None),
        Delivery::Held => ("held", None),
        Delivery::Live(message) => ("live", Some(message)),
    };
    let message = message.map(|MsiMessage { address, data }| json!({ "address": address, "data": data }));
    json!({ "vector": vector.0, "state": state, "message": message, "pending": pending })
}
