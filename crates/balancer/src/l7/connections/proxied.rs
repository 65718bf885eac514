//! Who the client is where a proxy says so before the connection's first byte.
//!
//! From peers that the configuration names the header is demanded, as in `tcp`: nobody gets around
//! the proxy unseen. From all others it is what it looks like, a request that is none.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::proxy_protocol::{LONGEST, Malformed, parse};

/// The peers that begin with a PROXY header.
#[derive(Clone, Debug)]
pub(in crate::l7) struct Proxies(Arc<[IpNet]>);

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("the proxy left")]
    Left,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("read from the proxy")]
    Read(#[from] io::Error),
}

impl Proxies {
    pub(in crate::l7) fn new(networks: &[IpNet]) -> Self {
        Self(networks.into())
    }

    pub(super) fn have(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }
}

/// Reads the header, and no byte after it: the client's address, or `None` where the proxy speaks
/// for itself.
///
/// # Errors
/// When what comes is no header, or breaks off.
pub(super) async fn header(stream: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut read = Vec::new();
    let mut room = vec![0; LONGEST];
    loop {
        // What belongs to the client stays in the socket, where all that follows looks for it.
        let seen = stream.peek(&mut room).await?;
        if seen == 0 {
            return Err(HeaderError::Left);
        }
        let before = read.len();
        read.extend_from_slice(&room[..seen]);
        let found = parse(&read)?;
        let length = found.map_or(read.len(), |(_, length)| length);
        stream.read_exact(&mut room[..length - before]).await?;
        if let Some((ends, _)) = found {
            let from = ends.map(|ends| ends.from);
            return Ok(from.map(|from| SocketAddr::new(from.ip().to_canonical(), from.port())));
        }
    }
}
