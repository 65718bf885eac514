//! What free room fetches at given prices: the dearest pods that a node could still be filled with.
//!
//! A device is filled by a knapsack over the typical shares. Cores couple the devices of a node; they
//! get a price of their own, and the node fetches what the best price for its cores leaves it
//! (Lagrange's relaxation: an upper bound that is close, because a node takes many pods). All core
//! prices are reckoned side by side, so that a node costs a few additions per device.
//!
//! Shares count in hundredths of a device, a pod's rounded up, free room down.

use crate::gpu::{Demand, MOST_DEVICES, Node, WHOLE};

/// Core prices tried side by side.
pub(super) const CORE_PRICES: usize = 16;
/// One number for each of them.
pub(super) type Lanes = [f32; CORE_PRICES];

/// Thousandths in a cell.
const CELL: u16 = 10;
/// Cells of a whole device.
const CELLS: usize = (WHOLE / CELL) as usize;
/// The first step above the least core price, in thousandths of a device for a thousandth of a core …
const FIRST_STEP: f32 = 0.0015;
/// … and how much the next is larger.
const NEXT_STEP: f32 = 1.45;
/// Fills that fetch so little more are no better.
const NOTHING: f32 = 1e-3;
/// Stands for no pod.
const NONE: u16 = u16::MAX;

/// A typical pod as the market sees it.
#[derive(Clone, Debug)]
pub(super) struct Typical {
    pub(super) demand: Demand,
    /// Of all pods that arrive.
    pub(super) share: f32,
    /// What it would pay if nothing were scarce.
    pub(super) base: f32,
    /// The logarithm of its price, in thousandths of a device.
    pub(super) log: f32,
}

/// What room fetches, by kind of node.
#[derive(Clone, Debug)]
pub(super) struct Quotes {
    /// The price of a thousandth of a core.
    cores: Lanes,
    sheets: Vec<Sheet>,
    /// The sheet of each kind.
    sheet_of: Vec<u8>,
}

/// For kinds of node that the same typical pods may use.
#[derive(Clone, Debug)]
struct Sheet {
    /// By number of the typical pod.
    takes: Vec<bool>,
    /// What a device with so many cells free fetches, and the pod to begin with.
    part: Vec<(Lanes, [u16; CORE_PRICES])>,
    /// What a whole device fetches where so many are whole: large pods need several.
    whole: Vec<(Lanes, [u16; CORE_PRICES])>,
}

impl Quotes {
    /// For these pods on nodes of these kinds; worth nothing until [`Quotes::reckon`].
    pub(super) fn new(typicals: &[Typical], kinds: impl Iterator<Item = u8>) -> Self {
        let mut quotes =
            Self { cores: [0.0; CORE_PRICES], sheets: Vec::new(), sheet_of: vec![0; 64] };
        let present = kinds.fold(0_u64, |all, kind| all | 1 << (kind & 63));
        for kind in (0..64_u8).filter(|kind| present >> kind & 1 == 1) {
            let takes: Vec<bool> = typicals.iter().map(|pod| pod.demand.takes(kind)).collect();
            let known = quotes.sheets.iter().position(|sheet| sheet.takes == takes);
            let at = known.unwrap_or(quotes.sheets.len());
            if known.is_none() {
                let nothing = ([0.0; CORE_PRICES], [NONE; CORE_PRICES]);
                let (part, whole) = (vec![nothing; CELLS + 1], vec![nothing; MOST_DEVICES + 1]);
                quotes.sheets.push(Sheet { takes, part, whole });
            }
            quotes.sheet_of[usize::from(kind)] = at as u8;
        }
        quotes
    }

    /// Sets everything by the pods' prices.
    pub(super) fn reckon(&mut self, typicals: &[Typical]) {
        let prices: Vec<f32> = typicals.iter().map(|pod| pod.log.exp()).collect();
        // Cores fetch at least what pods pay that ask for nothing else.
        let plain = typicals.iter().zip(&prices).filter(|(pod, _)| pod.demand.gpus == 0);
        let least = plain.map(|(pod, price)| price / pod.demand.cpu_milli.max(1) as f32);
        let least = least.fold(0.0, f32::max);
        let mut step = FIRST_STEP;
        for (lane, price) in self.cores.iter_mut().enumerate() {
            *price = least + if lane == 0 { 0.0 } else { step };
            step *= if lane == 0 { 1.0 } else { NEXT_STEP };
        }
        for sheet in &mut self.sheets {
            sheet.reckon(&self.cores, typicals, &prices);
        }
    }

    /// What `node` fetches at each core price; the least of them is what it is worth.
    pub(super) fn lanes(&self, node: &Node) -> Lanes {
        let cores = node.cpu_milli as f32;
        let mut lanes = self.cores.map(|price| price * cores);
        let Some(sheet) = self.sheet(node) else { return [0.0; CORE_PRICES] };
        let whole = whole(node);
        for free in node.free() {
            let (fetched, _) = sheet.device(*free, whole);
            for (lane, fetched) in lanes.iter_mut().zip(fetched) {
                *lane += fetched;
            }
        }
        lanes
    }

    /// Calls `found` with each pod of the dearest fill at a core price, and how many of it there
    /// are. Returns the cores that it takes: they may be more than there are.
    pub(super) fn fill(
        &self,
        node: &Node,
        typicals: &[Typical],
        lane: usize,
        mut found: impl FnMut(usize, f32),
    ) -> f32 {
        let mut cores = 0.0;
        let Some(sheet) = self.sheet(node) else { return cores };
        let whole = whole(node);
        for free in node.free() {
            let pick = sheet.device(*free, whole).1[lane];
            if *free == WHOLE && pick != NONE {
                let demand = &typicals[usize::from(pick)].demand;
                let part = 1.0 / f32::from(demand.gpus);
                found(usize::from(pick), part);
                cores += demand.cpu_milli as f32 * part;
                // One of a share leaves room for more.
                if demand.gpus == 1 && demand.gpu_milli < WHOLE {
                    cores += sheet.fill(CELLS - cells(demand), typicals, lane, &mut found);
                }
            } else {
                cores += sheet.fill(usize::from(free / CELL), typicals, lane, &mut found);
            }
        }
        cores
    }

    fn sheet(&self, node: &Node) -> Option<&Sheet> {
        self.sheets.get(usize::from(self.sheet_of[usize::from(node.kind & 63)]))
    }
}

impl Sheet {
    fn reckon(&mut self, cores: &Lanes, typicals: &[Typical], prices: &[f32]) {
        // Of pods with equal shares the one that pays most beyond its cores.
        let mut shares: Vec<Option<(Lanes, [u16; CORE_PRICES])>> = vec![None; CELLS + 1];
        self.whole.fill(([0.0; CORE_PRICES], [NONE; CORE_PRICES]));
        for (index, (pod, price)) in typicals.iter().zip(prices).enumerate() {
            let demand = &pod.demand;
            if demand.gpus == 0 || !self.takes[index] {
                continue;
            }
            let beyond = cores.map(|core| price - core * demand.cpu_milli as f32);
            let one = |best: &mut (Lanes, [u16; CORE_PRICES]), part: f32| {
                for (lane, beyond) in beyond.iter().enumerate() {
                    if beyond * part > best.0[lane] {
                        best.0[lane] = beyond * part;
                        best.1[lane] = index as u16;
                    }
                }
            };
            if demand.gpus == 1 {
                let best =
                    shares[cells(demand)].get_or_insert(([0.0; CORE_PRICES], [NONE; CORE_PRICES]));
                one(best, 1.0);
            } else {
                let part = 1.0 / f32::from(demand.gpus);
                self.whole.iter_mut().skip(demand.gpus.into()).for_each(|best| one(best, part));
            }
        }
        let shares: Vec<_> =
            shares.iter().enumerate().filter_map(|(cells, best)| Some((cells, (*best)?))).collect();
        for free in 1..=CELLS {
            let (mut best, mut pick) = (self.part[free - 1].0, [NONE; CORE_PRICES]);
            for (cells, (beyond, pod)) in shares.iter().take_while(|(cells, _)| *cells <= free) {
                let rest = &self.part[free - cells].0;
                for lane in 0..CORE_PRICES {
                    let fetched = rest[lane] + beyond[lane];
                    let better = fetched > best[lane] + NOTHING;
                    best[lane] = if better { fetched } else { best[lane] };
                    pick[lane] = if better { pod[lane] } else { pick[lane] };
                }
            }
            self.part[free] = (best, pick);
        }
        let (alone, pick) = self.part[CELLS];
        for best in &mut self.whole {
            for lane in 0..CORE_PRICES {
                if alone[lane] >= best.0[lane] {
                    best.0[lane] = alone[lane];
                    best.1[lane] = pick[lane];
                }
            }
        }
    }

    fn device(&self, free: u16, whole: usize) -> &(Lanes, [u16; CORE_PRICES]) {
        if free == WHOLE { &self.whole[whole] } else { &self.part[usize::from(free / CELL)] }
    }

    fn fill(
        &self,
        mut free: usize,
        typicals: &[Typical],
        lane: usize,
        found: &mut impl FnMut(usize, f32),
    ) -> f32 {
        let mut cores = 0.0;
        while free > 0 {
            let pick = self.part[free].1[lane];
            if pick == NONE {
                free -= 1;
                continue;
            }
            let demand = &typicals[usize::from(pick)].demand;
            found(usize::from(pick), 1.0);
            cores += demand.cpu_milli as f32;
            free -= cells(demand);
        }
        cores
    }
}

/// The cells that a pod's share of one device takes; at least one.
fn cells(demand: &Demand) -> usize {
    usize::from(demand.gpu_milli.div_ceil(CELL)).clamp(1, CELLS)
}

fn whole(node: &Node) -> usize {
    node.free().iter().filter(|free| **free == WHOLE).count()
}
