//! Amounts of what a node has and a pod asks for, with the unit in the type.

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign, SubAssign};

/// Thousandths of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millicores(pub i64);

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub i64);

/// What a node offers, or a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Processor.
    pub cpu: Millicores,
    /// Memory.
    pub memory: Bytes,
    /// Local disk.
    pub ephemeral_storage: Bytes,
    /// Everything else by its name, huge pages and devices: whole units.
    pub extended: BTreeMap<String, i64>,
}

impl Amounts {
    /// Each amount the larger of both.
    pub fn max(mut self, other: &Amounts) -> Amounts {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let own = self.extended.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
        self
    }
}

impl AddAssign<&Amounts> for Amounts {
    fn add_assign(&mut self, other: &Amounts) {
        self.cpu.0 += other.cpu.0;
        self.memory.0 += other.memory.0;
        self.ephemeral_storage.0 += other.ephemeral_storage.0;
        for (name, amount) in &other.extended {
            *self.extended.entry(name.clone()).or_default() += amount;
        }
    }
}

impl SubAssign<&Amounts> for Amounts {
    fn sub_assign(&mut self, other: &Amounts) {
        self.cpu.0 -= other.cpu.0;
        self.memory.0 -= other.memory.0;
        self.ephemeral_storage.0 -= other.ephemeral_storage.0;
        for (name, amount) in &other.extended {
            *self.extended.entry(name.clone()).or_default() -= amount;
        }
    }
}

impl Add<&Amounts> for Amounts {
    type Output = Amounts;

    fn add(mut self, other: &Amounts) -> Amounts {
        self += other;
        self
    }
}
