//! One node and what is on it.

use std::sync::Arc;

use crate::amount::Amounts;
use crate::device;
use crate::gpu::Node as Room;
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
    /// What is free on its devices, where it has some that are told apart.
    pub devices: Option<Room>,
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
            devices: device::room(&node, []),
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
        let asks = self.devices.is_some() && device::asked(&pod, &self.node).is_some();
        self.pods.push(pod);
        if asks {
            self.count_devices();
        }
    }

    pub fn take(&mut self, uid: &str) {
        if let Some(at) = self.pods.iter().position(|pod| pod.uid == uid) {
            let pod = self.pods.swap_remove(at);
            self.used -= &pod.requests;
            self.weighed -= &pod.weighed;
            if self.devices.is_some() && device::asked(&pod, &self.node).is_some() {
                self.count_devices();
            }
        }
    }

    /// The node has changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        self.node = node;
        self.count_devices();
    }

    /// Pods that say which devices they have count first: all are counted anew.
    fn count_devices(&mut self) {
        self.devices = device::room(&self.node, self.pods.iter().map(|pod| &**pod));
    }
}
