//! The ports: UDP by threads of their own, TCP and TLS by tasks.

mod limit;
mod shares;
mod slow;
mod tcp;
pub(crate) mod tls;
mod udp;

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

pub(crate) use tcp::tcp;
pub(crate) use udp::{threads, udp};

/// A bound socket that shares its port with others, of this process or another.
fn shared(address: SocketAddr, type_: Type) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), type_, None)?;
    socket.set_reuse_port(true)?;
    if type_ == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
