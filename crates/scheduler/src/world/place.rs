//! One node and what is on it.

use std::sync::Arc;

use crate::amount::Amounts;
use crate::snapshot::{Node, Pod};

/// What a node is measured to use, percent of what it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Processor.
    pub cpu: f64,
    /// Memory.
    pub memory: f64,
}

pub(crate) struct Place {
    pub node: Arc<Node>,
    pub pods: Vec<Arc<Pod>>,
    /// The sum of their requests.
    pub used: Amounts,
    /// The same with a small amount for each container that asks for none: for scores.
    pub weighed: Amounts,
    /// Pods that room is being made for here.
    pub nominated: Vec<Arc<Pod>>,
    pub load: Option<Load>,
    pub alive: bool,
    /// Decides between equals.
    pub rank: u64,
}

impl Place {
    pub fn new(node: Arc<Node>, rank: u64) -> Self {
        Self {
            node,
            pods: Vec::new(),
            used: Amounts::default(),
            weighed: Amounts::default(),
            nominated: Vec::new(),
            load: None,
            alive: true,
            rank,
        }
    }

    pub fn put(&mut self, pod: Arc<Pod>) {
        self.used += &pod.requests;
        self.weighed += &pod.weighed;
        self.pods.push(pod);
    }

    pub fn take(&mut self, uid: &str) {
        if let Some(at) = self.pods.iter().position(|pod| pod.uid == uid) {
            let pod = self.pods.swap_remove(at);
            self.used -= &pod.requests;
            self.weighed -= &pod.weighed;
        }
    }
}
