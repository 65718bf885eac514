//! Says each packet back as an answer with one address, knowing nothing: `dns_responder ADDRESS`. What
//! the sockets alone cost, in batches of 64; the floor that `./dev bench dns` compares with.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

const BATCH: usize = 64;
const MOST: usize = 512;
const RECORD: [u8; 16] = [0xC0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1];

fn main() -> Result<()> {
    let address = std::env::args().nth(1).context("dns_responder ADDRESS")?;
    let socket = UdpSocket::bind(address)?;
    let mut buffers = vec![[0u8; MOST]; BATCH];
    let mut receive = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut send = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    println!("ready");
    loop {
        let (mut lengths, mut clients) = ([0usize; BATCH], [None; BATCH]);
        let mut count = 0;
        {
            let mut slices: Vec<_> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            let flags = MsgFlags::MSG_WAITFORONE;
            let fd = socket.as_raw_fd();
            let came = match recvmmsg(fd, &mut receive, slices.iter_mut(), flags, None) {
                Ok(came) => came,
                Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
                Err(error) => return Err(error.into()),
            };
            for message in came {
                lengths[count] = message.bytes;
                clients[count] = message.address;
                count += 1;
            }
        }
        for (buffer, length) in buffers.iter_mut().zip(&mut lengths).take(count) {
            if *length + RECORD.len() <= MOST && *length >= 12 {
                // A response with one answer; the client sends no OPT record.
                (buffer[2], buffer[7]) = (0x84, 1);
                buffer[*length..*length + RECORD.len()].copy_from_slice(&RECORD);
                *length += RECORD.len();
            }
        }
        let slices: Vec<_> = buffers
            .iter()
            .zip(&lengths)
            .take(count)
            .map(|(buffer, length)| [IoSlice::new(&buffer[..*length])])
            .collect();
        let fd = socket.as_raw_fd();
        // What the kernel does not take is lost, as on any wire.
        drop(sendmmsg(fd, &mut send, &slices, &clients[..count], [], MsgFlags::empty()));
    }
}
