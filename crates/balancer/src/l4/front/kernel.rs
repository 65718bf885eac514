//! The program and its tables: loaded, pinned, taken over by the next process, written.
//!
//! Everything is pinned in a folder of a BPF file system, so that the kernel forwards on when this
//! process stops, dies or is replaced. The next one finds the tables as they are and exchanges the
//! program in one step.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp as Program, XdpMode};
use aya::{EbpfError, EbpfLoader};

use super::config::{Front, Mode, Protocol, Way};
use super::maglev::SLOTS;
use super::plan::{Entry, Held, Key, Place, Plan};

const PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/front.bpf.o"));
/// Another layout of what is pinned is another folder.
const LAYOUT: &str = "v2";
const LINK: &str = "link";
const TABLES: [&str; 8] =
    ["services", "tables", "backends", "flows", "backs", "loads", "counted", "turns"];
/// `struct table`.
const TABLE: usize = (SLOTS + 3) * 2;
const KEY: usize = 20;
const PLACE: usize = 32;
const LOAD: usize = 3 * 8;
const COUNTS: usize = 5 * 8;
/// Ports of translated connections that a core has at least: with fewer, cores share.
const CORE_PORTS: u32 = 512;

/// Why there is no front.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// What was said cannot be right.
    #[error(transparent)]
    Wrong(#[from] super::config::Wrong),
    /// The file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The interface is not there or has no address.
    #[error("interface {interface}: {what}")]
    Interface {
        /// Its name.
        interface: String,
        /// What is wrong, and what would help.
        what: String,
    },
    /// Nothing can be pinned there.
    #[error("keep programs in {}: a BPF file system is wanted there, mount -t bpf bpf /sys/fs/bpf",
        path.display())]
    Pins {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The object or its tables were refused.
    #[error("load the program that balances")]
    Load(#[source] Box<EbpfError>),
    /// The verifier or the interface refused the program.
    #[error("{doing} the program that balances")]
    Program {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// The program could not be pinned, or taken over.
    #[error("{doing} the program that balances")]
    Link {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A table could not be read or written.
    #[error("the table {table} of the program that balances")]
    Table {
        /// Its name.
        table: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
}

/// What went to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Load {
    /// Packets of clients.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Connections that began.
    pub connections: u64,
}

/// What was not sent on, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Lost {
    /// No backend takes new connections.
    pub no_backend: u64,
    /// No way to the backend, or its neighbour's address, is known.
    pub unreachable: u64,
    /// Does not fit the way with a second header.
    pub too_large: u64,
    /// Not lost: went to another backend, since its own is gone.
    pub moved: u64,
    /// All ports of the front's towards the backend were taken.
    pub no_port: u64,
}

/// The tables.
pub(super) struct Kernel {
    services: HashMap<MapData, [u8; KEY], [u8; 8]>,
    tables: Array<MapData, [u8; TABLE]>,
    backends: Array<MapData, [u8; PLACE]>,
    loads: PerCpuArray<MapData, [u8; LOAD]>,
    counted: PerCpuArray<MapData, [u8; COUNTS]>,
}

/// The front's own addresses; those that it has not are nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub v4: IpAddr,
    pub v6: IpAddr,
}

/// Where what belongs to an interface is pinned.
pub(super) fn folder(pins: &Path, interface: &str) -> PathBuf {
    pins.join(interface).join(LAYOUT)
}

fn failed(table: &'static str) -> impl Fn(MapError) -> FrontError {
    move |source| FrontError::Table { table, source: Box::new(source) }
}

impl Kernel {
    /// Puts the program on the interface, or takes over where an earlier process left.
    pub(super) fn attach(front: &Front, own: Own) -> Result<Self, FrontError> {
        let folder = folder(&front.pins, &front.interface);
        std::fs::create_dir_all(&folder)
            .map_err(|source| FrontError::Pins { path: folder.clone(), source })?;
        let (v4, v6) = (address_to(own.v4), address_to(own.v6));
        let ports = u32::from(front.ports.last - front.ports.first) + 1;
        let cpus = aya::util::nr_cpus().map_or(1, |cpus| u32::try_from(cpus).unwrap_or(1));
        let cores = cpus.min(ports / CORE_PORTS).max(1);
        let (first, of_core) = (u32::from(front.ports.first), ports / cores);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("own", &v4, true)
            .override_global("own6", &v6, true)
            .override_global("first_port", &first, true)
            .override_global("core_ports", &of_core, true)
            .override_global("cores", &cores, true)
            .map_max_entries("flows", front.connections)
            .map_max_entries("backs", front.connections);
        for table in TABLES {
            loader.map_pin_path(table, folder.join(table));
        }
        let mut program =
            loader.load(PROGRAM).map_err(|source| FrontError::Load(Box::new(source)))?;
        let failed = |doing| {
            move |source: ProgramError| FrontError::Program { doing, source: Box::new(source) }
        };
        let taken = program.program_mut("front").expect("the object has it");
        let xdp: &mut Program = taken.try_into().map_err(failed("find"))?;
        xdp.load().map_err(failed("verify"))?;
        let link = folder.join(LINK);
        let mut folders = vec![folder.clone()];
        if !link.exists() {
            folders.extend(older(&folder));
        }
        let mut taken = false;
        for before in &folders {
            taken = taken || take_over(xdp, &before.join(LINK))?;
            if taken && *before != folder {
                // Of another layout: its tables say nothing to this program.
                let pinned = |source| FrontError::Pins { path: link.clone(), source };
                std::fs::rename(before.join(LINK), &link).map_err(pinned)?;
                drop(std::fs::remove_dir_all(before));
            }
        }
        if !taken {
            // Such as that of an interface which is there no more.
            drop(std::fs::remove_file(&link));
            let id = attach(xdp, front)?;
            let owned = xdp.take_link(id).map_err(failed("hold"))?;
            let linked = |source| FrontError::Link { doing: "hold", source: Box::new(source) };
            let owned = FdLink::try_from(owned).map_err(linked)?;
            let pinned = owned.pin(&link);
            pinned.map_err(|error| FrontError::Link { doing: "pin", source: Box::new(error) })?;
        }
        Self::of(|table| program.take_map(table).expect("the object has it"))
    }

    /// The tables of a front that is there, whoever put it there.
    pub(super) fn open(folder: &Path) -> Result<Self, FrontError> {
        let mut maps = Vec::new();
        for table in TABLES {
            let data = MapData::from_pin(folder.join(table)).map_err(failed(table))?;
            maps.push((table, Map::from_map_data(data).map_err(failed(table))?));
        }
        Self::of(|table| {
            let at = maps.iter().position(|(name, _)| *name == table).expect("all were opened");
            maps.swap_remove(at).1
        })
    }

    fn of(mut map: impl FnMut(&'static str) -> Map) -> Result<Self, FrontError> {
        Ok(Self {
            services: map("services").try_into().map_err(failed("services"))?,
            tables: map("tables").try_into().map_err(failed("tables"))?,
            backends: map("backends").try_into().map_err(failed("backends"))?,
            loads: map("loads").try_into().map_err(failed("loads"))?,
            counted: map("counted").try_into().map_err(failed("counted"))?,
        })
    }

    /// What is there. Tables are not read: they are written once anew.
    pub(super) fn held(&self) -> Result<Held, FrontError> {
        let mut held = Held::default();
        for entry in self.services.iter() {
            let (key, value) = entry.map_err(failed("services"))?;
            held.services.extend(key_from(&key).map(|key| (key, entry_from(&value))));
        }
        for place in self.backends.iter() {
            held.places.push(place_from(&place.map_err(failed("backends"))?));
        }
        while held.places.last() == Some(&Place::EMPTY) {
            held.places.pop();
        }
        Ok(held)
    }

    /// Writes what `plan` says, in its order.
    pub(super) fn write(&mut self, plan: &Plan) -> Result<(), FrontError> {
        for (at, place) in &plan.come {
            self.backends.set(*at, place_to(place), 0).map_err(failed("backends"))?;
        }
        for (number, slots) in &plan.tables {
            let mut bytes = [0xFF; TABLE];
            for (to, slot) in bytes.chunks_exact_mut(2).zip(slots) {
                to.copy_from_slice(&slot.to_ne_bytes());
            }
            self.tables.set(*number, bytes, 0).map_err(failed("tables"))?;
        }
        for (key, entry) in &plan.services {
            let (key, entry) = (key_to(key), entry_to(entry));
            self.services.insert(key, entry, 0).map_err(failed("services"))?;
        }
        for key in &plan.withdrawn {
            self.services.remove(&key_to(key)).map_err(failed("services"))?;
        }
        for (at, place) in &plan.gone {
            self.backends.set(*at, place_to(place), 0).map_err(failed("backends"))?;
        }
        Ok(())
    }

    /// What went to the backend at that place, since it was the first time used.
    pub(super) fn load(&self, place: u32) -> Result<Load, FrontError> {
        let all = self.loads.get(&place, 0).map_err(failed("loads"))?;
        let [packets, bytes, connections] = sums(all.iter().map(<[u8; LOAD]>::as_slice));
        Ok(Load { packets, bytes, connections })
    }

    /// What was not sent on.
    pub(super) fn lost(&self) -> Result<Lost, FrontError> {
        let all = self.counted.get(&0, 0).map_err(failed("counted"))?;
        let [no_backend, unreachable, too_large, moved, no_port] =
            sums(all.iter().map(<[u8; COUNTS]>::as_slice));
        Ok(Lost { no_backend, unreachable, too_large, moved, no_port })
    }
}

/// Where earlier versions of this program pinned what is theirs.
fn older(folder: &Path) -> Vec<PathBuf> {
    let all = folder.parent().and_then(|parent| std::fs::read_dir(parent).ok());
    let all = all.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    all.filter(|path| path != folder).collect()
}

fn sums<'a, const N: usize>(all: impl Iterator<Item = &'a [u8]>) -> [u64; N] {
    let mut sums = [0; N];
    for one in all {
        for (sum, bytes) in sums.iter_mut().zip(one.chunks_exact(8)) {
            *sum += bytes.try_into().map_or(0, u64::from_ne_bytes);
        }
    }
    sums
}

/// Exchanges the program of a pinned link for this one; `false` where there is none that can be.
fn take_over(xdp: &mut Program, link: &Path) -> Result<bool, FrontError> {
    if !link.exists() {
        return Ok(false);
    }
    let linked = |source: LinkError| FrontError::Link { doing: "open", source: Box::new(source) };
    let pinned: FdLink = PinnedLink::from_pin(link).map_err(linked)?.into();
    let pinned = XdpLink::try_from(pinned).map_err(linked)?;
    let Ok(id) = xdp.attach_to_link(pinned) else { return Ok(false) };
    // The pin holds it; this process need not.
    drop(xdp.take_link(id));
    Ok(true)
}

fn attach(xdp: &mut Program, front: &Front) -> Result<aya::programs::xdp::XdpLinkId, FrontError> {
    let failed = |source| FrontError::Program { doing: "attach", source: Box::new(source) };
    let native = match front.mode {
        Mode::Generic => None,
        Mode::Best if is_pair(&front.interface) => None,
        Mode::Native => return xdp.attach(&front.interface, XdpMode::Driver).map_err(failed),
        Mode::Best => xdp.attach(&front.interface, XdpMode::Driver).ok(),
    };
    match native {
        Some(id) => Ok(id),
        None => xdp.attach(&front.interface, XdpMode::Skb).map_err(failed),
    }
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

/// IPv4 as `::ffff:a.b.c.d`.
fn address_to(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn address_from(bytes: &[u8]) -> IpAddr {
    let octets: [u8; 16] = bytes.try_into().unwrap_or_default();
    Ipv6Addr::from(octets).to_canonical()
}

fn key_to(key: &Key) -> [u8; KEY] {
    let mut bytes = [0; KEY];
    bytes[..16].copy_from_slice(&address_to(key.address));
    bytes[16..18].copy_from_slice(&key.port.to_be_bytes());
    bytes[18] = key.protocol as u8;
    bytes
}

fn key_from(bytes: &[u8; KEY]) -> Option<Key> {
    let mut protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
    let protocol = protocols.find(|one| *one as u8 == bytes[18])?;
    let port = u16::from_be_bytes([bytes[16], bytes[17]]);
    Some(Key { address: address_from(&bytes[..16]), port, protocol })
}

fn entry_to(entry: &Entry) -> [u8; 8] {
    let [a, b, c, d] = entry.number.to_ne_bytes();
    let way = match entry.way {
        Way::Routed => 0,
        Way::Tunnelled => 1,
        Way::Translated => 2,
    };
    [a, b, c, d, way, u8::from(entry.by_address), 0, 0]
}

fn entry_from(bytes: &[u8; 8]) -> Entry {
    let [a, b, c, d, way, by_address, ..] = *bytes;
    let way = match way {
        0 => Way::Routed,
        1 => Way::Tunnelled,
        _ => Way::Translated,
    };
    Entry { number: u32::from_ne_bytes([a, b, c, d]), way, by_address: by_address != 0 }
}

/// A place that was never used is all zeros in the kernel; its service is written plus one.
fn place_to(place: &Place) -> [u8; PLACE] {
    let mut bytes = [0; PLACE];
    bytes[..16].copy_from_slice(&address_to(place.address));
    bytes[16..20].copy_from_slice(&place.generation.to_ne_bytes());
    bytes[20..24].copy_from_slice(&u32::from(place.there).to_ne_bytes());
    bytes[24..28].copy_from_slice(&place.service.wrapping_add(1).to_ne_bytes());
    bytes[28..30].copy_from_slice(&place.port.to_be_bytes());
    bytes
}

fn place_from(bytes: &[u8; PLACE]) -> Place {
    if *bytes == [0; PLACE] {
        return Place::EMPTY;
    }
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Place {
        address: address_from(&bytes[..16]),
        port: u16::from_be_bytes([bytes[28], bytes[29]]),
        generation: word(16),
        there: word(20) != 0,
        service: word(24).wrapping_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for address in ["192.0.2.10", "2001:db8::10", "::ffff:1"] {
            let address: IpAddr = address.parse().unwrap();
            let key = Key { address, port: 443, protocol: Protocol::Udp };
            assert_eq!(key_from(&key_to(&key)), Some(key));
            let place = Place { address, port: 8080, generation: 7, there: true, service: 0 };
            assert_eq!(place_from(&place_to(&place)), place);
        }
        for way in [Way::Routed, Way::Tunnelled, Way::Translated] {
            let entry = Entry { number: 200, way, by_address: true };
            assert_eq!(entry_from(&entry_to(&entry)), entry);
        }
        assert_eq!(place_from(&[0; PLACE]), Place::EMPTY);
    }
}
