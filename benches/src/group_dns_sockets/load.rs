//! Asks as fast as answers come: a bounded number of questions on the way, in batches.

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

const BATCH: usize = 64;
/// Questions on the way: enough that a server finds a full batch.
const WINDOW: usize = 4 * BATCH;
/// What has not come by then is lost.
const PATIENCE: Duration = Duration::from_millis(20);
const MOST: usize = 512;

/// What a round gave.
#[derive(Debug, Default)]
pub struct Done {
    pub answered: u64,
    /// Answers without an address.
    pub wrong: u64,
}

/// The client.
pub struct Load {
    send: MultiHeaders<SockaddrIn>,
    receive: MultiHeaders<SockaddrIn>,
    random: u64,
}

impl Load {
    /// Allocates what it works in.
    ///
    /// # Errors
    /// None so far.
    pub fn new() -> Result<Self> {
        let headers = || MultiHeaders::preallocate(BATCH, None);
        Ok(Self { send: headers(), receive: headers(), random: 0x9E37_79B9_7F4A_7C15 })
    }

    /// Asks `port` for names below `names` at random, for as long as `lasting`.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn run(&mut self, port: u16, names: u32, lasting: Duration) -> Result<Done> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut questions = [[0u8; 64]; BATCH];
        let mut answers = vec![[0u8; MOST]; BATCH];
        let (mut done, mut on_the_way) = (Done::default(), 0usize);
        let end = Instant::now() + lasting;
        while Instant::now() < end {
            while on_the_way + BATCH <= WINDOW {
                let mut lengths = [0; BATCH];
                for (question, length) in questions.iter_mut().zip(&mut lengths) {
                    *length = write(question, self.next(), names);
                }
                let slices: Vec<_> = questions
                    .iter()
                    .zip(lengths)
                    .map(|(question, length)| [IoSlice::new(&question[..length])])
                    .collect();
                let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
                on_the_way +=
                    sendmmsg(fd, &mut self.send, &slices, [None; BATCH], [], flags)?.count();
            }
            let mut slices: Vec<_> = answers.iter_mut().map(|a| [IoSliceMut::new(a)]).collect();
            let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_WAITFORONE);
            let lengths: Vec<usize> =
                match recvmmsg(fd, &mut self.receive, slices.iter_mut(), flags, None) {
                    Ok(came) => came.map(|message| message.bytes).collect(),
                    Err(Errno::EAGAIN) => {
                        on_the_way = 0;
                        continue;
                    }
                    Err(Errno::EINTR) => continue,
                    Err(error) => return Err(error.into()),
                };
            on_the_way = on_the_way.saturating_sub(lengths.len());
            for (answer, length) in answers.iter().zip(lengths) {
                let good = length > 12 && answer[3] & 0xF == 0 && answer[7] > 0;
                done.answered += 1;
                done.wrong += u64::from(!good);
            }
        }
        Ok(done)
    }

    fn next(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Asks for each name until all have been answered once.
///
/// # Errors
/// When one is not answered.
pub fn warm(port: u16, names: u32) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let (mut question, mut answer) = ([0u8; 64], [0u8; MOST]);
    for number in 0..names {
        let length = write_number(&mut question, number, number as u16);
        for attempt in 1.. {
            socket.send(&question[..length])?;
            let came = loop {
                // What comes late is another name's.
                match socket.recv(&mut answer) {
                    Ok(_) if answer[..2] != question[..2] => {}
                    came => break came,
                }
            };
            match came {
                Ok(came) => {
                    ensure!(came > 12 && answer[7] > 0, "name {number} has no address");
                    break;
                }
                Err(_) if attempt < 3 => {}
                Err(error) => bail!("name {number} is not answered: {error}"),
            }
        }
    }
    Ok(())
}

/// A question for a name below `names`.
fn write(to: &mut [u8; 64], random: u64, names: u32) -> usize {
    let number = ((random >> 32) * u64::from(names)) >> 32;
    write_number(to, number as u32, random as u16)
}

/// `nNUMBER.bench.example A`, without EDNS.
fn write_number(to: &mut [u8; 64], mut number: u32, id: u16) -> usize {
    to[..12].copy_from_slice(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    to[..2].copy_from_slice(&id.to_be_bytes());
    let mut digits = [0u8; 10];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let count = digits.len() - first;
    (to[12], to[13]) = (count as u8 + 1, b'n');
    to[14..14 + count].copy_from_slice(&digits[first..]);
    const REST: &[u8] = b"\x05bench\x07example\x00\x00\x01\x00\x01";
    let end = 14 + count + REST.len();
    to[14 + count..end].copy_from_slice(REST);
    end
}
