//! What became of Gateways and routes, as conditions; written down by `status`.

use berth_api::gateway::{Condition, ParentRef, RouteKind};

/// Everything that there is to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::l7) struct Reports {
    /// Names of the classes that are ours, and their generation.
    pub(in crate::l7) classes: Vec<(String, Option<i64>)>,
    pub(in crate::l7) gateways: Vec<GatewayReport>,
    pub(in crate::l7) routes: Vec<RouteReport>,
}

/// One thing that is or is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::l7) struct Found {
    pub(in crate::l7) kind: &'static str,
    pub(in crate::l7) is_so: bool,
    pub(in crate::l7) reason: &'static str,
    pub(in crate::l7) message: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::l7) struct GatewayReport {
    pub(in crate::l7) namespace: String,
    pub(in crate::l7) name: String,
    pub(in crate::l7) generation: Option<i64>,
    pub(in crate::l7) conditions: Vec<Found>,
    pub(in crate::l7) listeners: Vec<ListenerReport>,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::l7) struct ListenerReport {
    pub(in crate::l7) name: String,
    pub(in crate::l7) kinds: Vec<RouteKind>,
    pub(in crate::l7) attached: usize,
    pub(in crate::l7) conditions: Vec<Found>,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::l7) struct RouteReport {
    /// `HTTPRoute`, `GRPCRoute`.
    pub(in crate::l7) kind: &'static str,
    pub(in crate::l7) namespace: String,
    pub(in crate::l7) name: String,
    pub(in crate::l7) generation: Option<i64>,
    pub(in crate::l7) parents: Vec<(ParentRef, Vec<Found>)>,
}

impl Found {
    pub(in crate::l7) fn so(kind: &'static str) -> Self {
        Self { kind, is_so: true, reason: kind, message: String::new() }
    }

    pub(in crate::l7) fn not(
        kind: &'static str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, is_so: false, reason, message: message.into() }
    }

    /// As the API has it; since `before`'s time where nothing changed.
    pub(in crate::l7) fn condition(
        &self,
        before: &[Condition],
        generation: Option<i64>,
        now: &str,
    ) -> Condition {
        let status = if self.is_so { "True" } else { "False" };
        let same = before.iter().find(|before| before.kind == self.kind && before.status == status);
        Condition {
            kind: self.kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            // Kubernetes 1.20 takes an empty text for null, and refuses the whole status.
            message: match self.message.as_str() {
                "" => "as it should be".to_owned(),
                message => message.to_owned(),
            },
            last_transition_time: same
                .map_or_else(|| now.to_owned(), |same| same.last_transition_time.clone()),
            observed_generation: generation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_change() {
        let before = Found::so("Accepted").condition(&[], Some(1), "then");
        let check = |found: Found, expected: &str| {
            let now = found.condition(std::slice::from_ref(&before), Some(2), "now");
            assert_eq!(now.last_transition_time, expected);
            assert_eq!(now.observed_generation, Some(2));
        };
        check(Found::so("Accepted"), "then");
        check(Found::not("Accepted", "Invalid", "why"), "now");
        check(Found::so("Programmed"), "now");
    }
}
