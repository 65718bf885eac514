//! What every node that will do is worth to a pod: for those who choose themselves.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::snapshot::Pod;

impl Cluster {
    /// Every node that passes the filters for `pod`, with all its scores together, best first.
    pub fn rate(&mut self, pod: &Arc<Pod>) -> Vec<(String, i64)> {
        self.with_class(pod, |class, world| {
            let open = class.open();
            let norms = class.norms(&open);
            let mut rated: Vec<(i64, u64, u32)> = Vec::new();
            for at in 0..world.nodes.len() as u32 {
                if let Ok((bucket, score)) = class.state(at)
                    && open.contains(&bucket)
                {
                    let worth: i64 = class.worth(bucket, &norms).iter().map(|(_, v)| v).sum();
                    rated.push((score + worth, world.nodes[at as usize].rank, at));
                }
            }
            rated.sort_unstable_by(|one, other| other.cmp(one));
            rated
                .into_iter()
                .map(|(total, _, at)| (world.nodes[at as usize].node.name.clone(), total))
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::profile::Profile;
    use crate::snapshot::{node, pod};

    #[test]
    fn the_first_is_the_one_that_is_decided_on_and_full_nodes_are_not_among_them() {
        let mut cluster = Cluster::new(vec![Profile::standard(0)]);
        for (name, cpu) in [("small", "1"), ("middle", "4"), ("large", "8")] {
            let object = json!({ "metadata": { "name": name },
                "status": { "allocatable": { "cpu": cpu, "memory": "8Gi", "pods": "9" } } });
            cluster.set_node(node(&serde_json::from_value(object).unwrap()));
        }
        let object = json!({ "metadata": { "namespace": "default", "name": "p", "uid": "p" },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "2" } } }] } });
        let pod = Arc::new(pod(&serde_json::from_value(object).unwrap()));
        let rated = cluster.rate(&pod);
        let names: Vec<&str> = rated.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["large", "middle"]);
        let decided = cluster.decide(&pod).unwrap();
        assert_eq!((decided.node, decided.score), rated[0].clone());
    }
}
