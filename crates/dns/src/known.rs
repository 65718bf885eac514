//! What each cluster is known to have, and the names made of all of them together.
//!
//! One name may span clusters: a Service of the same name and namespace has the addresses of all.

use std::sync::{Arc, Mutex};

use crate::facts::Facts;
use crate::name::Domain;
use crate::zone::{Current, Policies, Sources, Zone};

/// The clusters that are followed.
#[derive(Debug)]
pub(crate) struct Clusters {
    domains: Vec<Domain>,
    policies: Policies,
    /// What each is known to have, and its site.
    facts: Mutex<Vec<(Facts, u8)>>,
    zone: Arc<Current>,
}

impl Clusters {
    /// Clusters of these sites, and what is known of them already.
    pub(crate) fn new(
        domains: Vec<Domain>,
        policies: Policies,
        facts: Vec<(Facts, u8)>,
        zone: Arc<Current>,
    ) -> Self {
        let clusters = Self { domains, policies, facts: Mutex::new(facts), zone };
        let facts = clusters.facts.lock().expect("no holder of the lock panics");
        clusters.put_in_force(&facts);
        drop(facts);
        clusters
    }

    /// Takes what the cluster of that number has now, and puts it in force.
    pub(crate) fn set(&self, number: usize, new: Facts) {
        // Held while the names are made, or those of an earlier change could come last.
        let mut facts = self.facts.lock().expect("no holder of the lock panics");
        if let Some(place) = facts.get_mut(number) {
            place.0 = new;
        }
        self.put_in_force(&facts);
    }

    fn put_in_force(&self, facts: &[(Facts, u8)]) {
        let clusters: Vec<(&Facts, u8)> =
            facts.iter().map(|(facts, site)| (facts, *site)).collect();
        self.zone.set_clusters(Zone::build(Sources {
            domains: if clusters.is_empty() { &[] } else { &self.domains },
            clusters: &clusters,
            zones: &[],
            policies: Some(&self.policies),
        }));
    }
}
