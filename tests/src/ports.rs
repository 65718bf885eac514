//! Ports for what a test starts later: no other test, connection or node port takes them meanwhile.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::Mutex;

use anyhow::{Result, bail};

/// Neither handed to a connection by the kernel (32768 and more) nor a node port (30000 and more).
const PORTS: Range<u16> = 20_000..30_000;

/// The names of the ports that are ours: the kernel gives each to one process, until that ends.
static OURS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// Ports that are free, for TCP and UDP at every address.
///
/// # Errors
/// When there are not enough.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = free_run(1)?;
    }
    Ok(ports)
}

/// The first of `length` neighbouring free ports.
pub(crate) fn free_run(length: u16) -> Result<u16> {
    // Tests that run at once begin elsewhere, lest each asks for all that the others have.
    let begin = std::process::id().wrapping_mul(2_654_435_761) >> 16;
    let begin = PORTS.start + (begin % PORTS.len() as u32) as u16;
    for first in (begin..PORTS.end).chain(PORTS.start..begin) {
        if let Some(run) =
            (first..first.saturating_add(length)).map(take).collect::<Option<Vec<_>>>()
        {
            OURS.lock().expect("nobody panics with it").extend(run);
            return Ok(first);
        }
    }
    bail!("no {length} neighbouring ports are free");
}

/// None when somebody has it.
fn take(port: u16) -> Option<UnixListener> {
    let name = UnixAddr::from_abstract_name(format!("berth-test-port-{port}")).ok()?;
    let ours = UnixListener::bind_addr(&name).ok()?;
    let any = (Ipv4Addr::UNSPECIFIED, port);
    let free =
        PORTS.contains(&port) && TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok();
    free.then_some(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_not_where_somebody_listens() {
        let [first] = free_ports().unwrap();
        let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
        let listener = (first + 1..PORTS.end).find_map(listen).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let more: [u16; 16] = free_ports().unwrap();
        let mut all: Vec<u16> = more.into_iter().chain([first]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!((all.len(), all.contains(&taken)), (17, false));
    }

    #[test]
    fn a_run_is_ours_as_a_whole() {
        let first = free_run(8).unwrap();
        assert!((first..first + 8).all(|port| take(port).is_none()));
    }
}
