//! Who holds a port, asked of /proc before anything starts.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use anyhow::Result;

use crate::failure::{Exit, Failure};

/// A port that `berth up` will listen on.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The option that sets it, `--api-port`.
    pub option: &'static str,
    /// Where it will listen.
    pub address: SocketAddr,
    /// UDP beside TCP.
    pub udp: bool,
    /// A pod of the instance listens there, and goes on doing so while `berth up` is away.
    pub pods: bool,
}

/// Fails with the first port that is taken by someone who is not of `instance`, naming its holder.
///
/// # Errors
/// [`Exit::InUse`] for a port that something else listens on.
pub fn check(wanted: &[Wanted], instance: &str) -> Result<()> {
    for port in wanted {
        let free = TcpListener::bind(port.address).map(drop).and_then(|()| match port.udp {
            true => UdpSocket::bind(port.address).map(drop),
            false => Ok(()),
        });
        let Err(error) = free else { continue };
        let number = port.address.port();
        let message = match error.kind() {
            // The bridge is not there yet, so nothing can hold its ports.
            ErrorKind::AddrNotAvailable => continue,
            ErrorKind::AddrInUse => match holder(number) {
                Some(holder) if port.pods && holder.is_of(instance) => continue,
                Some(holder) => format!("port {number} is in use by {holder}"),
                // An outgoing connection happens to have the number; the pod tries again.
                None if port.pods => continue,
                None => format!("port {number} is in use by an open connection"),
            },
            _ => format!("cannot listen on {}: {error}", port.address),
        };
        let hint = format!("stop it, or choose another port with {}", port.option);
        return Err(Failure::new(Exit::InUse, message, hint).into());
    }
    Ok(())
}

/// Who listens on a port.
struct Holder {
    pid: String,
    name: String,
}

impl Holder {
    /// Whether it runs in a pod of `instance`: pods' cgroups stand below the instance's name.
    fn is_of(&self, instance: &str) -> bool {
        let inside = format!("/{instance}/");
        fs::read_to_string(format!("/proc/{}/cgroup", self.pid))
            .is_ok_and(|groups| groups.lines().any(|line| line.contains(&inside)))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Who listens on `port`, as far as /proc tells.
fn holder(port: u16) -> Option<Holder> {
    let inodes: Vec<String> = ["tcp", "tcp6", "udp", "udp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/net/{table}")).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let path = process.path();
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_err() {
            continue; // `self` is one of them under another name
        }
        let Ok(descriptors) = fs::read_dir(path.join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            if inode.is_some_and(|inode| inodes.iter().any(|held| held == inode)) {
                let name = fs::read_to_string(path.join("comm")).ok()?;
                return Some(Holder { pid, name: name.trim().to_owned() });
            }
        }
    }
    None
}

/// Inodes of the sockets of a /proc/net table that listen on `port` (TCP state 0A, UDP 07).
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let ending = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|cells| cells.len() > 9 && cells[1].ends_with(&ending))
        .filter(|cells| matches!(cells[3], "0A" | "07"))
        .map(|cells| cells[9].to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_holder_and_option() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let wanted = Wanted { option: "--api-port", address, udp: false, pods: true };
        let error = check(&[wanted], "elsewhere").unwrap_err().to_string();
        assert!(error.contains(&format!("port {} is in use by", address.port())), "{error}");
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
    }

    #[test]
    fn a_free_port_passes() {
        let [free] = berth_tests::free_ports().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free));
        let wanted = Wanted { option: "--dns-port", address, udp: true, pods: true };
        check(&[wanted], "elsewhere").unwrap();
    }
}
