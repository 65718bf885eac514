//! One question to one server, for people: what it says, in words.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, Record, RecordType};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::answer::MAX_UDP;

const PATIENCE: Duration = Duration::from_secs(5);

/// What a server said.
#[derive(Clone, Debug, Serialize)]
pub struct Said {
    /// `NoError`, `NXDomain` and so on, as RFC 6895 names them.
    pub code: String,
    /// It answers for the name itself.
    pub authoritative: bool,
    /// Records of the name.
    pub answers: Vec<Shown>,
    /// Who answers for the zone.
    pub authorities: Vec<Shown>,
    /// What saves a further question.
    pub additionals: Vec<Shown>,
    /// From the question to the answer, in milliseconds.
    pub took_ms: f64,
    /// The answer did not fit a datagram, or TCP was asked for.
    pub tcp: bool,
}

/// A record.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Whose it is.
    pub name: String,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// Such as `A`.
    #[serde(rename = "type")]
    pub kind: String,
    /// As in a zone file.
    pub data: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The name or the type is none.
    #[error("{0:?} is no name or type that can be asked for")]
    Question(String),
    /// Nobody answered in time, or something else came.
    #[error("ask {server}")]
    Exchange {
        /// Who was asked.
        server: SocketAddr,
        /// What happened.
        source: std::io::Error,
    },
}

/// Asks `server` for records of type `kind`; over TCP from the start, or where it must be.
///
/// # Errors
/// When the question is none, or nobody answers in five seconds.
pub async fn query(
    server: SocketAddr,
    name: &str,
    kind: &str,
    tcp: bool,
) -> Result<Said, AskError> {
    let mut name_said = Name::from_utf8(name).map_err(|_| AskError::Question(name.to_owned()))?;
    name_said.set_fqdn(true);
    let kind_said: RecordType =
        kind.to_ascii_uppercase().parse().map_err(|_| AskError::Question(kind.to_owned()))?;
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name_said, kind_said));
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP as u16).set_version(0);
    message.set_edns(edns);
    let packet = message.to_vec().map_err(|_| AskError::Question(name.to_owned()))?;
    let begun = Instant::now();
    let wrap = |source: std::io::Error| AskError::Exchange { server, source };
    let mut over_tcp = tcp;
    let exchange = async {
        if !tcp {
            let said = datagram(server, &packet).await?;
            if !said.metadata.truncation {
                return Ok(said);
            }
            over_tcp = true;
        }
        stream(server, &packet).await
    };
    let said = match timeout(PATIENCE, exchange).await {
        Ok(said) => said.map_err(wrap)?,
        Err(late) => return Err(wrap(late.into())),
    };
    let show = |records: &[Record]| records.iter().map(shown).collect();
    Ok(Said {
        code: format!("{:?}", said.metadata.response_code),
        authoritative: said.metadata.authoritative,
        answers: show(&said.answers),
        authorities: show(&said.authorities),
        additionals: show(&said.additionals),
        took_ms: begun.elapsed().as_secs_f64() * 1000.0,
        tcp: over_tcp,
    })
}

fn shown(record: &Record) -> Shown {
    Shown {
        name: record.name.to_ascii(),
        ttl: record.ttl,
        kind: record.record_type().to_string(),
        data: record.data.to_string(),
    }
}

async fn datagram(server: SocketAddr, packet: &[u8]) -> std::io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut bytes = [0; 4096];
    loop {
        let length = socket.recv(&mut bytes).await?;
        if length > 2 && bytes[..2] == packet[..2] {
            return Message::from_vec(&bytes[..length]).map_err(std::io::Error::other);
        }
    }
}

async fn stream(server: SocketAddr, packet: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(packet.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), packet].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Message::from_vec(&bytes).map_err(std::io::Error::other)
}
