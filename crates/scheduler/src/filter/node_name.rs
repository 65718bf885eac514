//! A pod that already names its node goes there or nowhere.

use super::{Check, refuse};
use crate::snapshot::{Pod, Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a Pod) -> Option<Check<'a>> {
    let wanted = pod.node.as_deref()?;
    Some(Box::new(move |place| {
        if place.node.name == wanted {
            Ok(())
        } else {
            refuse("node(s) didn't match the requested node name")
        }
    }))
}
