//! Questions that the kernel did not know and that are asked often come into its table: names that
//! had no room, and what stands in no table, such as names that do not exist.

use super::kernel::{Kernel, XdpError};
use super::table::Table;
use crate::zone::Layers;

/// Asked this often between two looks, a question is worth a place; a flood of invented names
/// asks for each once.
const WORTH: u64 = 4;
/// Places given between two looks: what invented names could push out is bounded.
const MOST: usize = 256;

/// Takes in what was asked for most since the last look.
pub(super) fn learn(table: &mut Table, kernel: &mut Kernel, zone: &Layers) -> Result<(), XdpError> {
    let mut missed = kernel.missed()?;
    missed.retain(|(_, times)| *times >= WORTH);
    missed.sort_unstable_by_key(|(_, times)| std::cmp::Reverse(*times));
    missed.truncate(MOST);
    missed.iter().try_for_each(|(key, _)| table.take_in(kernel.answers(), zone, key, &missed))
}
