//! What containers should ask for, from what they were measured to use.
//!
//! ```text
//!  samples ──▶ History (a histogram a day) ──▶ percentiles over a window ──▶ advise ──▶ Advice
//!  OOMKilled ─▶     └─ the day's peak, the limit that did not suffice ────────┘
//! ```
//!
//! Percentiles that people read weigh every sample of the window alike; what is recommended weighs a
//! day half as much as the day after it, so that a change of behaviour shows within days and last
//! week's peak still counts.
//!
//! # Guarantees
//! Memory is never recommended below the highest use that was seen × 1.15, nor below what a container
//! was killed at and a fifth more. With too few samples nothing is recommended to shrink.
//!
//! Refuses to know workloads by name, clocks and I/O: days are numbers that the caller counts.
//!
//! # Source
//! The recommender of Kubernetes' Vertical Pod Autoscaler: exponential buckets, half-life of a day,
//! eight days; Autopilot (EuroSys '20) §3.2.

mod histogram;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::amount::{Bytes, Millicores};
use histogram::{Histogram, Scale};

/// Days that are remembered; the longest window.
pub const DAYS: i64 = 8;
/// Samples below which nothing is advised to shrink: two hours of one pod, one a minute.
const FEW: u64 = 120;
/// Samples that make the advice firm: three days of one pod.
const MANY: u64 = 3 * 24 * 60;
/// What is recommended beyond the measured use, in parts of a hundred.
const MARGIN: i64 = 15;
/// After a kill for memory: a fifth more, and at least 100 MiB.
const AFTER_KILL: (i64, i64) = (20, 100 << 20);
/// Below this no request is worth its name.
const LEAST: (Millicores, Bytes) = (Millicores(10), Bytes(16 << 20));
const MIB: i64 = 1 << 20;

/// What a container of a workload used, over the days that are remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// By day, counted since 1970.
    days: BTreeMap<i64, Day>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Day {
    #[serde(default, rename = "c")]
    cpu: Histogram,
    #[serde(default, rename = "m")]
    memory: Histogram,
    /// The highest use of memory, in bytes.
    #[serde(default, rename = "p")]
    peak: i64,
    /// The memory that it was killed at, in bytes.
    #[serde(default, rename = "o", skip_serializing_if = "is_nothing")]
    killed_at: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn is_nothing(amount: &i64) -> bool {
    *amount == 0
}

impl History {
    /// One container was measured to use this.
    pub fn see(&mut self, day: i64, cpu: Millicores, memory: Bytes) {
        let own = self.days.entry(day).or_default();
        own.cpu.add(Scale::CPU, cpu.0);
        own.memory.add(Scale::MEMORY, memory.0);
        own.peak = own.peak.max(memory.0);
    }

    /// One container was killed for want of memory when it was allowed `limit`. Saying so again
    /// changes nothing.
    pub fn see_killed(&mut self, day: i64, limit: Bytes) {
        let own = self.days.entry(day).or_default();
        own.killed_at = own.killed_at.max(limit.0);
    }

    /// Forgets what is too old on `today`; whether anything is left.
    pub fn forget(&mut self, today: i64) -> bool {
        // A clock that jumped ahead and came back leaves days that have not been yet.
        self.days.retain(|day, _| (today - DAYS + 1..=today + 1).contains(day));
        !self.days.is_empty()
    }

    fn window(&self, today: i64, days: i64) -> impl Iterator<Item = (&i64, &Day)> {
        self.days.range(today - days + 1..)
    }
}

/// What a container asks for now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Nothing where it does not say.
    pub cpu: Option<Millicores>,
    /// Nothing where it does not say.
    pub memory: Option<Bytes>,
}

/// Percentiles of what was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Used {
    /// Half of the samples are at or below it.
    pub p50: i64,
    /// 95 of 100.
    pub p95: i64,
    /// 99 of 100.
    pub p99: i64,
}

/// How much the samples say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Too few: nothing is advised to shrink.
    Low,
    /// Not yet three days' worth.
    Medium,
    /// Three days' worth of one pod, or more.
    High,
}

/// What a container should ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// Millicores used.
    pub cpu: Used,
    /// Bytes used.
    pub memory: Used,
    /// The most memory that was seen, over all days that are remembered.
    pub peak: Bytes,
    /// The most memory that it was killed at.
    pub killed_at: Option<Bytes>,
    /// Millicores to ask for.
    pub ask_cpu: Millicores,
    /// Bytes to ask for.
    pub ask_memory: Bytes,
    /// How many samples this stands on.
    pub samples: u64,
    /// What they are worth.
    pub confidence: Confidence,
}

impl Advice {
    /// What `pods` of these ask for too much; below nothing what they ask for too little. Where
    /// nothing is asked, nothing can be saved.
    pub fn saved(&self, asked: &Asked, pods: i64) -> (Millicores, Bytes) {
        let cpu = asked.cpu.map_or(0, |own| own.0 - self.ask_cpu.0);
        let memory = asked.memory.map_or(0, |own| own.0 - self.ask_memory.0);
        (Millicores(cpu.saturating_mul(pods)), Bytes(memory.saturating_mul(pods)))
    }
}

/// What a container with this history should ask for, by the last `days`; `None` where nothing was
/// measured in them.
pub fn advise(history: &History, today: i64, days: i64, asked: &Asked) -> Option<Advice> {
    let (mut cpu, mut memory) = (BTreeMap::new(), BTreeMap::new());
    let (mut recent_cpu, mut recent_memory) = (BTreeMap::new(), BTreeMap::new());
    let mut samples = 0;
    for (day, own) in history.window(today, days) {
        let age = i32::try_from((today - day).max(0)).unwrap_or(i32::MAX);
        let weight = 0.5_f64.powi(age);
        own.cpu.pour(1.0, &mut cpu);
        own.memory.pour(1.0, &mut memory);
        own.cpu.pour(weight, &mut recent_cpu);
        own.memory.pour(weight, &mut recent_memory);
        samples += own.cpu.samples();
    }
    if samples == 0 {
        return None;
    }
    let used = |scale: Scale, counts: &BTreeMap<u16, f64>| Used {
        p50: histogram::percentile(scale, counts, 0.50),
        p95: histogram::percentile(scale, counts, 0.95),
        p99: histogram::percentile(scale, counts, 0.99),
    };
    let confidence = match samples {
        ..FEW => Confidence::Low,
        FEW..MANY => Confidence::Medium,
        MANY.. => Confidence::High,
    };
    let peak = history.days.values().map(|day| day.peak).max().unwrap_or(0);
    let killed_at = history.days.values().map(|day| day.killed_at).max().filter(|at| *at > 0);
    let more = |amount: i64, percent: i64| amount.saturating_add(amount / 100 * percent);
    let recent = histogram::percentile(Scale::CPU, &recent_cpu, 0.95);
    let mut ask_cpu = up(recent + (recent * MARGIN + 99) / 100, 10).max(LEAST.0.0);
    let recent = histogram::percentile(Scale::MEMORY, &recent_memory, 0.99);
    let guard = killed_at.map_or(0, |at| more(at, AFTER_KILL.0).max(at + AFTER_KILL.1));
    let memory_wanted = more(recent.max(peak), MARGIN).saturating_add(100).max(guard);
    let mut ask_memory = up(memory_wanted, MIB).max(LEAST.1.0);
    if confidence == Confidence::Low {
        ask_cpu = ask_cpu.max(asked.cpu.map_or(0, |own| own.0));
        ask_memory = ask_memory.max(asked.memory.map_or(0, |own| own.0));
    }
    Some(Advice {
        cpu: used(Scale::CPU, &cpu),
        memory: used(Scale::MEMORY, &memory),
        peak: Bytes(peak),
        killed_at: killed_at.map(Bytes),
        ask_cpu: Millicores(ask_cpu),
        ask_memory: Bytes(ask_memory),
        samples,
        confidence,
    })
}

/// To the next multiple.
fn up(amount: i64, of: i64) -> i64 {
    amount.div_euclid(of).saturating_add(i64::from(amount.rem_euclid(of) != 0)).saturating_mul(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: i64 = 20_000;

    fn asked(cpu: i64, memory_mib: i64) -> Asked {
        Asked { cpu: Some(Millicores(cpu)), memory: Some(Bytes(memory_mib * MIB)) }
    }

    /// `(day, samples, millicores, MiB)`.
    fn history(parts: &[(i64, usize, i64, i64)]) -> History {
        let mut history = History::default();
        for (day, samples, cpu, mib) in parts {
            for _ in 0..*samples {
                history.see(*day, Millicores(*cpu), Bytes(mib * MIB));
            }
        }
        history
    }

    #[test]
    fn who_asks_for_four_cores_and_uses_one_is_told() {
        let history = history(&[(TODAY, 5000, 1000, 900)]);
        let advice = advise(&history, TODAY, 7, &asked(4000, 8192)).unwrap();
        assert_eq!(advice.confidence, Confidence::High);
        // One bucket is 5 % wide, and the margin 15 %.
        assert!((1150..=1220).contains(&advice.ask_cpu.0), "{advice:?}");
        assert!((1035..=1090).contains(&(advice.ask_memory.0 / MIB)), "{advice:?}");
        let (cpu, memory) = advice.saved(&asked(4000, 8192), 10);
        assert!((27_800..=28_500).contains(&cpu.0), "{cpu:?}");
        assert!(memory.0 / MIB > 70_000, "{memory:?}");
    }

    #[test]
    fn percentiles_tell_the_usual_from_the_rare() {
        let history =
            history(&[(TODAY, 940, 100, 100), (TODAY, 45, 400, 200), (TODAY, 15, 900, 300)]);
        let advice = advise(&history, TODAY, 7, &asked(1000, 1000)).unwrap();
        let near = |value: i64, wanted: i64| {
            assert!(value >= wanted && value <= wanted * 106 / 100, "{value} for {wanted}");
        };
        near(advice.cpu.p50, 100);
        near(advice.cpu.p95, 400);
        near(advice.cpu.p99, 900);
        near(advice.memory.p99, 300 * MIB);
    }

    #[test]
    fn memory_is_never_below_the_peak_and_its_margin() {
        // One sample in ten thousand, a week ago, outside the window.
        let history = history(&[(TODAY - 6, 1, 10, 4000), (TODAY, 9999, 10, 100)]);
        let advice = advise(&history, TODAY, 1, &asked(10, 5000)).unwrap();
        assert!(advice.ask_memory.0 >= 4000 * MIB / 100 * 115, "{advice:?}");
        assert!(advice.memory.p99 < 110 * MIB, "the window does not see it");
    }

    #[test]
    fn a_kill_for_memory_raises_what_is_asked_for() {
        fn check(killed_mib: i64, expected_mib: i64) {
            let mut history = history(&[(TODAY, 5000, 10, 50)]);
            history.see_killed(TODAY - 1, Bytes(killed_mib * MIB));
            history.see_killed(TODAY - 1, Bytes(killed_mib * MIB));
            let advice = advise(&history, TODAY, 7, &asked(10, killed_mib)).unwrap();
            assert_eq!(advice.ask_memory.0.div_euclid(MIB), expected_mib, "at {killed_mib}");
        }
        check(64, 164);
        check(1000, 1200);
    }

    #[test]
    fn few_samples_never_shrink_anything_but_may_raise() {
        let history = history(&[(TODAY, 5, 100, 100)]);
        let advice = advise(&history, TODAY, 7, &asked(4000, 50)).unwrap();
        assert_eq!(advice.confidence, Confidence::Low);
        assert_eq!(advice.ask_cpu.0, 4000);
        assert!(advice.ask_memory.0 > 110 * MIB);
    }

    #[test]
    fn yesterdays_ways_count_half() {
        // As many samples each day: three old days together weigh less than today's 95 of 100.
        let old = [(TODAY - 7, 1000, 2000, 10), (TODAY - 6, 1000, 2000, 10)];
        let mut parts = old.to_vec();
        parts.extend((0..6).map(|ago| (TODAY - ago, 1000, 100, 10)));
        let advice = advise(&history(&parts), TODAY, 8, &asked(2000, 10)).unwrap();
        assert!(advice.cpu.p95 >= 2000, "people read what was: {advice:?}");
        assert!(advice.ask_cpu.0 < 130, "and are advised by what is: {advice:?}");
    }

    #[test]
    fn what_is_old_is_forgotten_and_the_rest_survives_being_written() {
        let mut history =
            history(&[(TODAY - 8, 3, 5, 5), (TODAY - 7, 3, 5, 5), (TODAY + 9, 1, 1, 1)]);
        assert!(history.forget(TODAY));
        assert_eq!(history.days.keys().copied().collect::<Vec<_>>(), [TODAY - 7]);
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
        assert!(!history.forget(TODAY + 1));
        assert_eq!(advise(&history, TODAY, 7, &Asked::default()), None);
    }
}
