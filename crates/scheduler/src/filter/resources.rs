//! What the pod asks for must still be free: processor, memory, disk, devices, and one of the pods
//! that the node takes.

use super::Check;
use crate::snapshot::{Place, Pod, Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Check<'a>> {
    Some(Box::new(move |place| {
        let lacking = lacking(pod, place);
        if lacking.is_empty() { Ok(()) } else { Err(lacking) }
    }))
}

fn lacking(pod: &Pod, place: &Place) -> Vec<String> {
    let (asked, used, all) = (&pod.requests, &place.used, &place.node.allocatable);
    let mut reasons = Vec::new();
    if place.pods.len() as i64 >= place.node.pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut compare = |name: &str, asked: i64, used: i64, all: i64| {
        // Who asks for nothing fits even where more is used than there is.
        if asked > 0 && asked > all - used {
            reasons.push(format!("Insufficient {name}"));
        }
    };
    compare("cpu", asked.cpu.0, used.cpu.0, all.cpu.0);
    compare("memory", asked.memory.0, used.memory.0, all.memory.0);
    compare(
        "ephemeral-storage",
        asked.ephemeral_storage.0,
        used.ephemeral_storage.0,
        all.ephemeral_storage.0,
    );
    for (name, amount) in &asked.extended {
        let of = |amounts: &crate::amount::Amounts| {
            amounts.extended.get(name).copied().unwrap_or_default()
        };
        compare(name, *amount, of(used), of(all));
    }
    reasons
}
