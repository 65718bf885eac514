//! Moving instances between two sets of pods without ever having too many or too few.

/// One set of pods as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// How many it was told to have.
    pub asked: i32,
    /// How many it has, those that start included.
    pub there: i32,
    /// How many of them take requests.
    pub available: i32,
}

impl Side {
    /// How many there are or are about to be.
    fn held(self) -> i32 {
        self.asked.max(self.there)
    }

    /// How many take requests and will go on to.
    pub fn good(self) -> i32 {
        // A set that was just told to shrink counts what it is to lose until it hears of it.
        self.available.min(self.asked)
    }
}

/// How many instances there have to be, in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What the App asks for.
    pub replicas: i32,
    /// So many more may be there.
    pub surge: i32,
    /// So many fewer may take requests.
    pub unavailable: i32,
}

/// The next sizes of `main` and `other` on the way to `wanted`.
///
/// # Guarantees
/// - A set grows only as far as both together stay within `replicas + surge`, counting what is
///   there and what was asked for.
/// - A set shrinks by available instances only as far as `replicas − unavailable` remain.
/// - Called again and again in a world that follows, it reaches `wanted`, provided that surge or
///   unavailable is above 0 and both together are `replicas`.
pub fn transfer(bounds: Bounds, wanted: (i32, i32), main: Side, other: Side) -> (i32, i32) {
    let most = if bounds.replicas == 0 { 0 } else { bounds.replicas.saturating_add(bounds.surge) };
    let least = (bounds.replicas - bounds.unavailable).max(0);
    let mut room = (most - main.held() - other.held()).max(0);
    let mut spare = (main.good() + other.good() - least).max(0);
    let mut step = |side: Side, wanted: i32| {
        if side.asked < wanted {
            let more = room.min(wanted - side.asked);
            room -= more;
            side.asked + more
        } else {
            // What takes no requests goes first, and is missed by nobody.
            let idle = (side.asked - side.good()).max(0);
            let fewer = (side.asked - wanted).min(idle + spare);
            spare -= (fewer - idle).max(0);
            side.asked - fewer
        }
    };
    (step(main, wanted.0), step(other, wanted.1))
}
