//! Which nodes lend to batch pods, when, and how much: what people write.

use std::collections::BTreeMap;

use serde::Deserialize;

const DAY: u16 = 24 * 60;

/// All pools; a node belongs to the first that means it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Rules {
    /// Without any, nothing is lent.
    pub pools: Vec<Pool>,
    /// Most evictions begun in a minute, in the whole cluster.
    pub evictions_per_minute: u32,
}

/// Nodes that lend alike.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Pool {
    /// Labels that its nodes have, all of them; none for every node.
    pub node_selector: BTreeMap<String, String>,
    /// When.
    pub hours: Hours,
    /// By whose clock, as `Europe/Berlin`.
    pub time_zone: String,
    /// Percent of a node's CPU that online and batch pods together are to use.
    pub ceiling: u8,
    /// The same of memory.
    pub memory_ceiling: u8,
    /// Percent by which online pods may grow beyond what they used lately.
    pub margin: u8,
    /// Percent of a node's CPU in use above which batch pods go.
    pub evict_above: u8,
    /// The same of memory.
    pub evict_memory_above: u8,
    /// So long before the hours end nothing more is offered.
    pub closing_minutes: u16,
    /// So long must be quiet before more is offered: the while whose peak counts.
    pub settle_seconds: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { pools: Vec::new(), evictions_per_minute: 30 }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            node_selector: BTreeMap::new(),
            hours: Hours::default(),
            time_zone: "UTC".to_owned(),
            ceiling: 65,
            memory_ceiling: 80,
            margin: 15,
            evict_above: 80,
            evict_memory_above: 90,
            closing_minutes: 15,
            settle_seconds: 300,
        }
    }
}

/// Hours of the day, `22:00-07:00`; the same twice is the whole day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hours {
    from: u16,
    to: u16,
}

/// Rules that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A number is out of range.
    #[error("pool {pool}: {key} is {value}; {wanted}")]
    Range {
        /// Which pool, counted from 1.
        pool: usize,
        /// Which key.
        key: &'static str,
        /// What it says.
        value: u32,
        /// What would be right.
        wanted: &'static str,
    },
    /// No eviction would ever begin.
    #[error("evictionsPerMinute is 0; 1 or more is wanted")]
    Rate,
}

impl Hours {
    /// Minutes until they are over, at `minute` of the day; 0 outside them.
    pub fn left(self, minute: u16) -> u16 {
        if self.from == self.to {
            return u16::MAX;
        }
        let since = |from: u16, to: u16| (to + DAY - from) % DAY;
        let length = since(self.from, self.to);
        length.saturating_sub(since(self.from, minute % DAY))
    }
}

impl TryFrom<String> for Hours {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let minute = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
            let right = minute < 60 && hour * 60 + minute <= DAY && hour <= 24;
            right.then_some((hour * 60 + minute) % DAY)
        };
        let both = text.split_once('-').and_then(|(from, to)| Some((minute(from)?, minute(to)?)));
        let (from, to) = both.ok_or_else(|| format!("hours are `{text}`; 22:00-07:00 is meant"))?;
        Ok(Self { from, to })
    }
}

impl Pool {
    /// Whether a node with these labels belongs to it.
    pub fn means(&self, labels: &BTreeMap<String, String>) -> bool {
        self.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Rules {
    /// The rules, if they can be meant.
    ///
    /// # Errors
    /// The first number that is out of range.
    pub fn validate(self) -> Result<Self, RulesError> {
        if self.evictions_per_minute == 0 {
            return Err(RulesError::Rate);
        }
        for (at, pool) in self.pools.iter().enumerate() {
            let percent = [
                ("ceiling", pool.ceiling),
                ("memoryCeiling", pool.memory_ceiling),
                ("evictAbove", pool.evict_above),
                ("evictMemoryAbove", pool.evict_memory_above),
            ];
            let wrong = percent.into_iter().find(|(_, value)| !(1..=100).contains(value));
            let wrong = wrong.map(|(key, value)| (key, value, "1 to 100")).or_else(|| {
                let over = "no less than the ceiling, or pods go that were just invited";
                if pool.margin > 100 {
                    Some(("margin", pool.margin, "0 to 100"))
                } else if pool.evict_above < pool.ceiling {
                    Some(("evictAbove", pool.evict_above, over))
                } else if pool.evict_memory_above < pool.memory_ceiling {
                    Some(("evictMemoryAbove", pool.evict_memory_above, over))
                } else {
                    None
                }
            });
            if let Some((key, value, wanted)) = wrong {
                let value = u32::from(value);
                return Err(RulesError::Range { pool: at + 1, key, value, wanted });
            }
            if pool.settle_seconds > 86_400 {
                let (key, value) = ("settleSeconds", pool.settle_seconds);
                let wanted = "0 to 86400";
                return Err(RulesError::Range { pool: at + 1, key, value, wanted });
            }
        }
        Ok(self)
    }
}
