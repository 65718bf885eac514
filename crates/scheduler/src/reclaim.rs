//! What online pods leave unused at quiet hours, for batch pods, and who of these goes when it is
//! wanted back.
//!
//! ```text
//!  offer = ceiling × node − peak of what others than batch pods used lately × (1 + margin)
//!        lowered at once, raised only after a quiet while; nothing outside the hours
//!  above the line in measured use, or past the hours ─▶ batch pods go: the least important, then
//!        the youngest first, as many as it takes, so many a minute
//! ```
//!
//! What is offered are extended resources of the node, so that any scheduler keeps to them. Batch
//! pods ask for nothing else, which makes them what the kernel gives CPU last and takes memory from
//! first: it yields CPU at once, before anybody is evicted.
//!
//! # Guarantees
//! A node of which nothing is measured offers nothing, and nobody is evicted for it. No pod that asks
//! for no batch resource is ever evicted. Same views at the same times, same plans.
//!
//! Refuses clocks and I/O: the time and the minute of the day are passed in.
//!
//! # Source
//! Borg (EuroSys '15) §5.5, resource reclamation; Koordinator's batch resources.

mod rules;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

pub use rules::{Hours, Pool, Rules, RulesError};

use crate::amount::{Bytes, Millicores};

/// The extended resource of CPU, in thousandths of a core.
pub const CPU: &str = "berth.dev/batch-cpu";
/// The extended resource of memory, in bytes.
pub const MEMORY: &str = "berth.dev/batch-memory";
/// Offers change in steps of so many hundredths of the node.
const STEP: i64 = 5;
/// Measurements in a row above the line before pods go for CPU, which yields by itself meanwhile.
const HOT: u32 = 2;
/// Who was refused by its budget is left alone so long, seconds.
const REFUSED: i64 = 30;

/// CPU and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Processor.
    pub cpu: Millicores,
    /// Memory.
    pub memory: Bytes,
}

/// A node, as it is now.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Its labels, which pools select by.
    pub labels: BTreeMap<String, String>,
    /// What pods may use of it.
    pub room: Amount,
    /// Whether it takes pods: ready, not cordoned.
    pub open: bool,
    /// What all of it was just measured to use.
    pub used: Option<Amount>,
    /// When that was measured, seconds since 1970.
    pub measured: i64,
    /// What it offers batch pods at the moment.
    pub offered: Option<Amount>,
    /// The batch pods on it.
    pub batch: Vec<BatchPod>,
}

/// A pod that asks for batch resources.
#[derive(Clone, Debug, Default)]
pub struct BatchPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The lower, the sooner it goes.
    pub priority: i32,
    /// When it was made, seconds since 1970.
    pub created: i64,
    /// What it asks for.
    pub asked: Amount,
    /// What it was just measured to use.
    pub used: Option<Amount>,
    /// It goes already.
    pub terminating: bool,
}

/// Why a batch pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The node uses more than it may while batch pods are there.
    Pressure,
    /// The hours are over, or no pool is for this node.
    Over,
}

/// A batch pod that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Where it is.
    pub node: String,
    /// Why.
    pub why: Why,
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What nodes offer from now on; those that are not named go on as they are. `None` takes the
    /// offer away altogether.
    pub offers: Vec<(String, Option<Amount>)>,
    /// Who goes, in this order.
    pub evictions: Vec<Eviction>,
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub struct Reclaimer {
    nodes: BTreeMap<String, Memory>,
    refused: BTreeMap<String, i64>,
    /// Evictions that may be begun, and since when that is known.
    allowance: f64,
    since: Option<i64>,
}

#[derive(Debug, Default)]
struct Memory {
    /// What others than batch pods used, by time.
    online: VecDeque<(i64, Amount)>,
    /// Measurements in a row above the line, and when the last was made.
    hot: u32,
    measured: Option<i64>,
}

impl Reclaimer {
    /// What is to be done at `now`, seconds since 1970; `minute` is that of the day by a pool's clock.
    pub fn plan(
        &mut self,
        rules: &Rules,
        views: &[View],
        now: i64,
        minute: impl Fn(&Pool) -> u16,
    ) -> Plan {
        self.nodes.retain(|name, _| views.iter().any(|view| view.name == *name));
        self.refused.retain(|_, at| now - *at < REFUSED && *at <= now);
        let mut plan = Plan::default();
        let (mut pressed, mut over) = (Vec::new(), Vec::new());
        for view in views {
            let pool = rules.pools.iter().find(|pool| pool.means(&view.labels));
            let memory = self.nodes.entry(view.name.clone()).or_default();
            memory.look(view, pool, now);
            let left = pool.map_or(0, |pool| pool.hours.left(minute(pool)));
            let offer = pool.map(|pool| {
                let taking = view.open && left > pool.closing_minutes;
                memory.offer(view, pool, now).filter(|_| taking).unwrap_or_default()
            });
            if offer != view.offered {
                plan.offers.push((view.name.clone(), offer));
            }
            match pool.filter(|_| left > 0) {
                Some(pool) => pressed.extend(memory.pressed(view, pool, &self.refused)),
                None => over.extend(in_order(view, &self.refused).map(|pod| (view, pod))),
            }
        }
        let evictions = pressed.into_iter().map(|each| (each, Why::Pressure));
        let evictions = evictions.chain(over.into_iter().map(|each| (each, Why::Over)));
        let most = self.allow(rules, now);
        for ((view, pod), why) in evictions.take(most) {
            self.allowance -= 1.0;
            plan.evictions.push(Eviction {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                node: view.name.clone(),
                why,
            });
        }
        plan
    }

    /// A pod's budget lets it not go now: others go in its stead.
    pub fn refused(&mut self, uid: &str, now: i64) {
        self.refused.insert(uid.to_owned(), now);
    }

    /// How many evictions may be begun now: a minute's share for each second, a sixth of it at once.
    fn allow(&mut self, rules: &Rules, now: i64) -> usize {
        let rate = f64::from(rules.evictions_per_minute);
        let burst = (rate / 6.0).max(1.0);
        // A clock that jumps back begins anew.
        let passed = self.since.map_or(60, |since| (now - since).max(0)) as f64;
        self.allowance = (self.allowance + passed * rate / 60.0).min(burst);
        self.since = Some(now);
        self.allowance as usize
    }
}

impl Memory {
    fn look(&mut self, view: &View, pool: Option<&Pool>, now: i64) {
        let Some((used, pool)) = view.used.zip(pool) else {
            // What is not measured must not be guessed from before.
            self.online.clear();
            (self.hot, self.measured) = (0, None);
            return;
        };
        let mut online = used;
        for own in view.batch.iter().filter_map(|pod| pod.used) {
            online.cpu.0 = (online.cpu.0 - own.cpu.0).max(0);
            online.memory.0 = (online.memory.0 - own.memory.0).max(0);
        }
        if self.online.back().is_some_and(|(at, _)| *at > now) {
            self.online.clear();
        }
        self.online.push_back((now, online));
        let settle = i64::from(pool.settle_seconds);
        // One that is older than the while stays, to show that the while is covered.
        while self.online.get(1).is_some_and(|(at, _)| now - at >= settle) {
            self.online.pop_front();
        }
        let line = view.room.cpu.0 * i64::from(pool.evict_above);
        let new = self.measured.replace(view.measured) != Some(view.measured);
        self.hot = match used.cpu.0 * 100 > line {
            true => self.hot + u32::from(new),
            false => 0,
        };
    }

    /// What the node can offer; `None` where nothing is known.
    fn offer(&self, view: &View, pool: &Pool, now: i64) -> Option<Amount> {
        let (oldest, _) = self.online.front()?;
        let peak = |of: fn(&Amount) -> i64| self.online.iter().map(|(_, used)| of(used)).max();
        let settled = now - oldest >= i64::from(pool.settle_seconds);
        let part = |all: i64, ceiling: u8, peak: Option<i64>, offered: Option<i64>| {
            let step = (all * STEP / 100).max(1);
            let online = peak.unwrap_or(0) / 100 * i64::from(100 + pool.margin);
            let raw = (all / 100 * i64::from(ceiling) - online).max(0);
            let (stepped, offered) = (raw / step * step, offered.unwrap_or(0));
            // Up only by more than a step and a half, lest it swing about an edge.
            let up = settled && raw >= offered + step + step / 2;
            if stepped < offered || up { stepped } else { offered }
        };
        let (room, offered) = (view.room, view.offered);
        let cpu = part(room.cpu.0, pool.ceiling, peak(|used| used.cpu.0), offered.map(|o| o.cpu.0));
        let memory = offered.map(|offered| offered.memory.0);
        let memory = part(room.memory.0, pool.memory_ceiling, peak(|used| used.memory.0), memory);
        Some(Amount { cpu: Millicores(cpu), memory: Bytes(memory) })
    }

    /// Who goes so that the node's use falls to its ceiling.
    fn pressed<'v>(
        &self,
        view: &'v View,
        pool: &Pool,
        refused: &BTreeMap<String, i64>,
    ) -> Vec<(&'v View, &'v BatchPod)> {
        let Some(used) = view.used else { return Vec::new() };
        let above = |used: i64, all: i64, line: u8| used - all / 100 * i64::from(line);
        let (mut cpu, mut memory) = (0, 0);
        if self.hot >= HOT {
            cpu = above(used.cpu.0, view.room.cpu.0, pool.ceiling);
        }
        if above(used.memory.0, view.room.memory.0, pool.evict_memory_above) > 0 {
            memory = above(used.memory.0, view.room.memory.0, pool.memory_ceiling);
        }
        // Those that go already give back what they use.
        for own in view.batch.iter().filter(|pod| pod.terminating) {
            let own = own.used.unwrap_or(own.asked);
            (cpu, memory) = (cpu - own.cpu.0, memory - own.memory.0);
        }
        let mut gone = Vec::new();
        for pod in in_order(view, refused) {
            let own = pod.used.unwrap_or(pod.asked);
            let helps = (cpu > 0 && own.cpu.0 > 0) || (memory > 0 && own.memory.0 > 0);
            if helps {
                (cpu, memory) = (cpu - own.cpu.0, memory - own.memory.0);
                gone.push((view, pod));
            }
        }
        gone
    }
}

/// Those that can go, the least important first, of these the youngest.
fn in_order<'v>(
    view: &'v View,
    refused: &BTreeMap<String, i64>,
) -> impl Iterator<Item = &'v BatchPod> + use<'v> {
    let can_go = |pod: &&BatchPod| !pod.terminating && !refused.contains_key(&pod.uid);
    let mut all: Vec<&BatchPod> = view.batch.iter().filter(can_go).collect();
    all.sort_by_key(|pod| (pod.priority, Reverse(pod.created), &pod.uid));
    all.into_iter()
}
