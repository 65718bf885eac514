//! A node that already holds the images starts the pod sooner.

use super::Rate;
use crate::snapshot::{Pod, Snapshot};

/// Images smaller than this are pulled in no time.
const LEAST: i64 = 23 * 1024 * 1024;
/// More than this an image does not count.
const MOST: i64 = 1000 * 1024 * 1024;

pub(super) fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Option<Rate<'a>> {
    let nodes = snapshot.places.len() as i64;
    if pod.images.is_empty() || nodes < 2 {
        return None;
    }
    // An image on few nodes weighs less, lest all its pods crowd onto the one that has it.
    let sizes: Vec<(&str, i64)> = pod
        .images
        .iter()
        .map(|image| {
            let holders =
                snapshot.places.values().filter(|place| place.node.images.contains_key(image));
            (image.as_str(), holders.count() as i64)
        })
        .collect();
    let most = MOST * pod.images.len() as i64;
    Some(Box::new(move |place| {
        let held: i64 = sizes
            .iter()
            .filter_map(|(image, holders)| Some(place.node.images.get(*image)?.0 / nodes * holders))
            .sum();
        (held.clamp(LEAST, most) - LEAST) * 100 / (most - LEAST)
    }))
}
