//! Nodes with devices, and what is free on them.

/// Most devices on one node.
pub const MOST_DEVICES: usize = 16;
/// A whole device, in thousandths.
pub const WHOLE: u16 = 1000;

/// A set of devices of one node, a bit each.
pub type Devices = u16;

/// What a pod asks for. Equal demands are one class: every node answers them alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Demand {
    /// Thousandths of a core.
    pub cpu_milli: u32,
    /// MiB of memory.
    pub memory_mib: u32,
    /// How many devices.
    pub gpus: u8,
    /// Thousandths of each of these devices, at most [`WHOLE`].
    pub gpu_milli: u16,
    /// Which kinds of node will do, a bit each; 0 for any.
    pub kinds: u64,
}

impl Demand {
    /// All devices' thousandths together.
    pub fn gpu_total(&self) -> u32 {
        u32::from(self.gpus) * u32::from(self.gpu_milli)
    }

    /// Whether a node of this `kind` will do.
    pub fn takes(&self, kind: u8) -> bool {
        self.kinds == 0 || self.kinds & (1 << (kind & 63)) != 0
    }
}

/// What a node has when it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Thousandths of a core.
    pub cpu_milli: u32,
    /// MiB of memory.
    pub memory_mib: u32,
    /// Most pods.
    pub pods: u16,
    /// How many devices.
    pub gpus: u8,
    /// What tells it from others for a pod: the devices' model, labels, taints; 0..64.
    pub kind: u8,
}

/// What is free on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Thousandths of a core.
    pub cpu_milli: u32,
    /// MiB of memory.
    pub memory_mib: u32,
    /// How many more pods.
    pub pods: u16,
    /// How many devices the node has.
    pub gpus: u8,
    /// Its kind, 0..64.
    pub kind: u8,
    /// Thousandths free on each device; 0 past the last.
    pub devices: [u16; MOST_DEVICES],
}

impl Node {
    /// An empty node.
    pub fn empty(shape: Shape) -> Self {
        let mut devices = [0; MOST_DEVICES];
        devices.iter_mut().take(usize::from(shape.gpus)).for_each(|free| *free = WHOLE);
        Self {
            cpu_milli: shape.cpu_milli,
            memory_mib: shape.memory_mib,
            gpus: shape.gpus,
            kind: shape.kind,
            pods: shape.pods,
            devices,
        }
    }

    /// The devices' free thousandths.
    pub fn free(&self) -> &[u16] {
        &self.devices[..usize::from(self.gpus).min(MOST_DEVICES)]
    }

    /// All devices' free thousandths together.
    pub fn gpu_total(&self) -> u32 {
        self.free().iter().map(|free| u32::from(*free)).sum()
    }

    /// What scores see: cores, kind and devices in ascending order, without memory and pods, which
    /// only say whether something fits.
    #[must_use]
    pub fn state(mut self) -> Self {
        let devices = usize::from(self.gpus).min(MOST_DEVICES);
        self.devices[..devices].sort_unstable();
        self.memory_mib = 0;
        self.pods = 0;
        self
    }

    /// Whether `demand` fits now.
    pub fn fits(&self, demand: &Demand) -> bool {
        self.cpu_milli >= demand.cpu_milli
            && self.memory_mib >= demand.memory_mib
            && self.pods > 0
            && demand.takes(self.kind)
            && (demand.gpus == 0 || self.has_devices(demand))
    }

    /// Whether enough devices have enough free.
    pub fn has_devices(&self, demand: &Demand) -> bool {
        let enough = self.free().iter().filter(|free| **free >= demand.gpu_milli).count();
        enough >= usize::from(demand.gpus)
    }

    /// The fullest devices that still hold `demand`, lowest index first among equals.
    pub fn tightest(&self, demand: &Demand) -> Devices {
        let mut chosen: Devices = 0;
        for _ in 0..demand.gpus {
            let open =
                self.free().iter().enumerate().filter(|(index, free)| {
                    **free >= demand.gpu_milli && chosen & (1 << index) == 0
                });
            let Some((index, _)) = open.min_by_key(|(_, free)| **free) else { break };
            chosen |= 1 << index;
        }
        chosen
    }

    /// The node once `demand` is on it. The caller has checked that it fits.
    #[must_use]
    pub fn with(mut self, demand: &Demand, devices: Devices) -> Self {
        self.cpu_milli -= demand.cpu_milli;
        self.memory_mib -= demand.memory_mib;
        self.pods -= 1;
        for index in bits(devices) {
            self.devices[index] -= demand.gpu_milli;
        }
        self
    }
}

/// The indexes of the bits that are set, lowest first.
pub fn bits(mut devices: Devices) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = devices.trailing_zeros() as usize;
        devices &= devices.wrapping_sub(1);
        (index < MOST_DEVICES).then_some(index)
    })
}

/// All nodes, dense, by index.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    shapes: Vec<Shape>,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Empty nodes of these shapes.
    pub fn new(shapes: Vec<Shape>) -> Self {
        let nodes = shapes.iter().map(|shape| Node::empty(*shape)).collect();
        Self { shapes, nodes }
    }

    /// Nodes of these shapes with so much room left.
    pub(crate) fn with_rooms(shapes: Vec<Shape>, nodes: Vec<Node>) -> Self {
        Self { shapes, nodes }
    }

    /// What is free, by node.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What there is, by node.
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// All devices' thousandths, free or not.
    pub fn gpu_capacity(&self) -> u64 {
        self.shapes.iter().map(|shape| u64::from(shape.gpus) * u64::from(WHOLE)).sum()
    }

    /// Takes `demand` from `node`; `false`, and nothing taken, when it does not fit there.
    #[must_use]
    pub fn take(&mut self, node: usize, demand: &Demand, devices: Devices) -> bool {
        let Some(free) = self.nodes.get_mut(node) else { return false };
        let room = |index: usize| free.devices[index] >= demand.gpu_milli;
        let right = devices.count_ones() == u32::from(demand.gpus)
            && free.cpu_milli >= demand.cpu_milli
            && free.memory_mib >= demand.memory_mib
            && free.pods > 0
            && bits(devices).all(|index| index < usize::from(free.gpus) && room(index));
        if right {
            *free = free.with(demand, devices);
        }
        right
    }

    /// Gives back what [`Cluster::take`] took.
    pub fn give(&mut self, node: usize, demand: &Demand, devices: Devices) {
        let (Some(free), Some(shape)) = (self.nodes.get_mut(node), self.shapes.get(node)) else {
            return;
        };
        free.cpu_milli = (free.cpu_milli + demand.cpu_milli).min(shape.cpu_milli);
        free.memory_mib = (free.memory_mib + demand.memory_mib).min(shape.memory_mib);
        free.pods = free.pods.saturating_add(1).min(shape.pods);
        for index in bits(devices) {
            free.devices[index] = (free.devices[index] + demand.gpu_milli).min(WHOLE);
        }
    }
}
