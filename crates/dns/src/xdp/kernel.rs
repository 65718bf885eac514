//! The program and its tables, loaded, attached and written.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp as Program, XdpMode};
use aya::{Ebpf, EbpfError, EbpfLoader};

use super::layout::{Body, Keys, Slot};
use super::places::STEPS;
use super::prepare::Key;
use super::slots::Slots;
use super::{Mode, Xdp};

const PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dns.bpf.o"));
/// `struct counts`.
const COUNTS: usize = 6 * 8;
/// A table of few places has no room to look for another one.
const LEAST: u32 = 64;
const MOST: u32 = 4_000_000;

/// Why answers cannot be given in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The object or its tables were refused.
    #[error("load the program that answers in the kernel")]
    Load(#[source] Box<EbpfError>),
    /// The verifier refused the program.
    #[error("have the kernel verify the program that answers")]
    Verify(#[source] Box<ProgramError>),
    /// An interface takes no program.
    #[error("attach to {interface}: not by its driver ({native}), nor before the network stack")]
    Attach {
        /// Its name.
        interface: String,
        /// What its driver said.
        native: String,
        /// What the kernel said to the generic way.
        source: Box<ProgramError>,
    },
    /// The driver does not, and nothing else was wanted.
    #[error("attach to {interface} by its driver: {native}")]
    Driver {
        /// Its name.
        interface: String,
        /// What its driver said.
        native: String,
    },
    /// The kernel would leave the program attached when this process ends.
    #[error("attach to {interface}: the kernel ties no program to a process; 5.9 and later do")]
    Old {
        /// Its name.
        interface: String,
    },
    /// A table could not be read or written.
    #[error("{doing} of the program that answers in the kernel")]
    Table {
        /// What, and which.
        doing: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// Addresses of this machine could not be listed.
    #[error("list this machine's addresses")]
    Addresses(#[source] nix::Error),
}

/// What the program counted, on all processors together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counted {
    /// Answered in the kernel.
    pub answered: u64,
    /// Passed up: the name or type is not in the table.
    pub unknown: u64,
    /// Passed up: a query that only the server understands.
    pub other: u64,
    /// Passed up: over the rate.
    pub limited: u64,
    /// Dropped: the answer changed while it was copied.
    pub exchanged: u64,
    /// Passed up: no room behind the packet.
    pub failed: u64,
}

/// The program, attached. Dropping it detaches it; so does the kernel when the process ends.
pub(crate) struct Kernel {
    answers: Slots,
    addresses: HashMap<MapData, [u8; 16], u8>,
    missed: HashMap<MapData, Key, u64>,
    counted: Arc<Counts>,
    /// Written to every interface's program.
    ours: BTreeSet<[u8; 16]>,
    wanted: Vec<IpAddr>,
    listen: IpAddr,
    _attached: Vec<FdLink>,
    /// Held while it is attached; tests run it on frames of theirs.
    #[cfg_attr(not(test), expect(dead_code))]
    program: Ebpf,
}

/// The program's counts, to be read beside its work.
pub(crate) struct Counts(PerCpuArray<MapData, [u8; COUNTS]>);

impl std::fmt::Debug for Counts {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read().fmt(to)
    }
}

impl Counts {
    /// The sums.
    pub(crate) fn read(&self) -> Counted {
        let Ok(all) = self.0.get(&0, 0) else { return Counted::default() };
        let mut sums = [0u64; COUNTS / 8];
        for one in all.iter() {
            for (sum, bytes) in sums.iter_mut().zip(one.chunks_exact(8)) {
                *sum += bytes.try_into().map_or(0, u64::from_ne_bytes);
            }
        }
        let [answered, unknown, other, limited, exchanged, failed] = sums;
        Counted { answered, unknown, other, limited, exchanged, failed }
    }
}

impl Kernel {
    /// Loads the program and attaches it to each interface: by the driver where it can, else
    /// before the network stack.
    pub(super) fn attach(wanted: &Xdp, listen: SocketAddr, rate: u32) -> Result<Self, XdpError> {
        let load = |source| XdpError::Load(Box::new(source));
        let (port, names) = (listen.port(), wanted.names.clamp(LEAST, MOST));
        // Where a name has no second kind of address, two answers are in one slot.
        let slots = names + names / 8;
        let keys: Keys = rand::random();
        let mut program = EbpfLoader::new()
            .override_global("port", &port, true)
            .override_global("rate", &rate, true)
            .override_global("places", &slots, true)
            .override_global("keys", &keys, true)
            .map_max_entries("slots", slots + STEPS as u32)
            .map_max_entries("bodies", names / 2)
            .load(PROGRAM)
            .map_err(load)?;
        let mut attached = Vec::new();
        let taken = program.program_mut("dns").expect("the object has it");
        let xdp: &mut Program =
            taken.try_into().map_err(|source| XdpError::Verify(Box::new(source)))?;
        xdp.load().map_err(|source| XdpError::Verify(Box::new(source)))?;
        for interface in &wanted.interfaces {
            attached.push(attach(xdp, interface, wanted.mode)?);
        }
        let mut table = |name: &str| program.take_map(name).expect("the object has it");
        let made = |source| XdpError::Table { doing: "opening a table", source: Box::new(source) };
        let slots: Array<MapData, Slot> = table("slots").try_into().map_err(made)?;
        let bodies: Array<MapData, Body> = table("bodies").try_into().map_err(made)?;
        let mut kernel = Self {
            answers: Slots::new(slots, bodies, keys),
            addresses: table("addresses").try_into().map_err(made)?,
            missed: table("missed").try_into().map_err(made)?,
            counted: Arc::new(Counts(table("counted").try_into().map_err(made)?)),
            ours: BTreeSet::new(),
            wanted: wanted.addresses.clone(),
            listen: listen.ip(),
            _attached: attached,
            program,
        };
        kernel.own_addresses()?;
        Ok(kernel)
    }

    /// What it counts.
    pub(super) fn counted(&self) -> Arc<Counts> {
        Arc::clone(&self.counted)
    }

    /// Answers only what is asked of this machine, whose addresses may change.
    pub(super) fn own_addresses(&mut self) -> Result<(), XdpError> {
        let mut now: BTreeSet<[u8; 16]> = self.wanted.iter().map(|ip| mapped(*ip)).collect();
        if self.listen.is_unspecified() {
            let all = nix::ifaddrs::getifaddrs().map_err(XdpError::Addresses)?;
            for one in all.filter_map(|interface| interface.address) {
                let v4 = one.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                let ip = v4.or_else(|| one.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
                // A socket on 0.0.0.0 is not asked over IPv6.
                let heard = |ip: &IpAddr| self.listen.is_ipv6() || ip.is_ipv4();
                now.extend(ip.filter(heard).map(mapped));
            }
        } else {
            now.insert(mapped(self.listen));
        }
        let wrote = |source| XdpError::Table { doing: "addresses", source: Box::new(source) };
        for gone in self.ours.difference(&now) {
            self.addresses.remove(gone).map_err(wrote)?;
        }
        for new in now.difference(&self.ours) {
            self.addresses.insert(new, 1, 0).map_err(wrote)?;
        }
        self.ours = now;
        Ok(())
    }

    /// Where its answers are.
    pub(super) fn answers(&mut self) -> &mut Slots {
        &mut self.answers
    }

    /// Takes out what was asked for and not found, with how often.
    pub(super) fn missed(&mut self) -> Result<Vec<(Key, u64)>, XdpError> {
        let read = |source| XdpError::Table { doing: "missed names", source: Box::new(source) };
        let mut all = Vec::new();
        for missed in self.missed.iter() {
            // The kernel may take one out between the look at its key and at its value.
            all.extend(missed.ok());
        }
        for (key, _) in &all {
            match self.missed.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(read(source)),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
impl Kernel {
    /// What the program does with a frame, and what it makes of it.
    pub(super) fn run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        use aya::programs::{TestRun, TestRunOptions};
        let taken = self.program.program("dns").expect("the object has it");
        let xdp: &Program = taken.try_into().expect("it is an XDP program");
        let mut out = vec![0; 2048];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let ran = xdp.test_run(options).expect("the kernel runs it");
        out.truncate(ran.data_size_out as usize);
        (ran.return_value, out)
    }
}

fn attach(xdp: &mut Program, interface: &str, mode: Mode) -> Result<FdLink, XdpError> {
    let native = match mode {
        Mode::Generic => Err("not wanted".to_owned()),
        Mode::Best if is_pair(interface) => Err("its other end may not take answers".to_owned()),
        Mode::Best | Mode::Native => {
            xdp.attach(interface, XdpMode::Driver).map_err(|error| chain(&error))
        }
    };
    let (id, how) = match native {
        Ok(id) => (id, "by its driver"),
        Err(native) if mode == Mode::Native => {
            return Err(XdpError::Driver { interface: interface.to_owned(), native });
        }
        Err(native) => {
            let generic = xdp.attach(interface, XdpMode::Skb);
            let id = generic.map_err(|source| XdpError::Attach {
                interface: interface.to_owned(),
                native,
                source: Box::new(source),
            })?;
            (id, "before the network stack")
        }
    };
    let link = xdp.take_link(id).map_err(|source| XdpError::Verify(Box::new(source)))?;
    // One that is no file would stay when the process is killed; dropping it detaches.
    let link =
        FdLink::try_from(link).map_err(|_| XdpError::Old { interface: interface.to_owned() })?;
    tracing::info!(interface, how, "answers in the kernel");
    Ok(link)
}

/// Whether it is one end of a virtual cable. A driver of those throws away what a program sends
/// unless the other end has a program too, and says nothing.
fn is_pair(interface: &str) -> bool {
    let dir = Path::new("/sys/class/net").join(interface);
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    match (read("ifindex"), read("iflink"), read("uevent")) {
        // Others with a link of their own, such as VLANs, say what they are.
        (Some(own), Some(link), Some(said)) => own != link && !said.contains("DEVTYPE="),
        _ => false,
    }
}

/// What went wrong, down to what the kernel said.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// As the program sees an address.
fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}
