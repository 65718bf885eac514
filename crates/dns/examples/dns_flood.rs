//! Asks for names at a rate, whether or not they are answered:
//! `dns_flood INTERFACE FROM-MAC TO-MAC FROM-IP TO-IP`, then a line `RATE MILLISECONDS NAMES` for
//! each round, which is said back as `SENT ANSWERED WRONG MICROSECONDS`. The client of
//! `./dev bench dns-xdp`.

use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::EbpfLoader;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};

const FRAME: usize = 80;
/// Frames that the kernel makes and sends at once.
const BATCH: u32 = 32;
/// What has not been answered by then is lost.
const PATIENCE: Duration = Duration::from_millis(30);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [interface, from_mac, to_mac, from, to] = words.as_slice() else {
        bail!("dns_flood INTERFACE FROM-MAC TO-MAC FROM-IP TO-IP")
    };
    let frame = frame(mac(from_mac)?, mac(to_mac)?, from.parse()?, to.parse()?);
    let object = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flood.bpf.o"));
    let mut loaded = EbpfLoader::new().override_global("frame", &frame, true).load(object)?;
    let counted = loaded.take_map("counted").context("it is there")?;
    let counted: PerCpuArray<MapData, [u8; 16]> = counted.try_into()?;
    let paced = loaded.take_map("paced").context("it is there")?;
    let mut paced: Array<MapData, [u8; 24]> = paced.try_into()?;
    let count: &mut Xdp = loaded.program_mut("count").context("it is there")?.try_into()?;
    count.load()?;
    count.attach(interface, XdpMode::Driver)?;
    let ask: &mut Xdp = loaded.program_mut("ask").context("it is there")?.try_into()?;
    ask.load()?;
    let index = nix::net::if_::if_nametoindex(interface.as_str())?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [rate, lasting, names] = numbers[..] else { bail!("RATE MILLISECONDS NAMES") };
        let lasting = Duration::from_millis(lasting);
        let before = read(&counted)?;
        let (sent, took) = run(ask, &mut paced, &frame, index, (rate, names), lasting)?;
        let within = read(&counted)?;
        std::thread::sleep(PATIENCE); // what is still on the way must not count for the next round
        let (answered, wrong) = (within.0 - before.0, within.1 - before.1);
        println!("{sent} {answered} {wrong} {}", took.as_micros());
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Sends `rate` frames a second, as near to it as the processor comes.
fn run(
    ask: &Xdp,
    paced: &mut Array<MapData, [u8; 24]>,
    frame: &[u8; FRAME],
    index: u32,
    (rate, names): (u64, u64),
    lasting: Duration,
) -> Result<(u64, Duration)> {
    // struct xdp_md: where the frame is, and on which interface it would have come.
    let mut context = [0u8; 24];
    context[4..8].copy_from_slice(&(FRAME as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&index.to_ne_bytes());
    let mut pace = [0; 24];
    pace[16..].copy_from_slice(&names.to_ne_bytes());
    pace[8..16].copy_from_slice(&(1_000_000_000 / rate.max(1)).to_ne_bytes());
    paced.set(0, pace, 0)?;
    let frames = rate * lasting.as_millis() as u64 / 1000;
    let begun = Instant::now();
    ask.test_run(TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat: u32::try_from(frames)?,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    })?;
    Ok((frames, begun.elapsed()))
}

fn read(counted: &PerCpuArray<MapData, [u8; 16]>) -> Result<(u64, u64)> {
    let all = counted.get(&0, 0)?;
    let word = |one: &[u8; 16], at: usize| one[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
    Ok((all.iter().map(|one| word(one, 0)).sum(), all.iter().map(|one| word(one, 8)).sum()))
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("a hardware address has six bytes")
}

/// `n00000.bench.example A`, whose digits the program writes.
fn frame(from_mac: [u8; 6], to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr) -> [u8; FRAME] {
    const NAME: &[u8] = b"\x06n00000\x05bench\x07example\x00\x00\x01\x00\x01";
    let message = [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], NAME].concat();
    let udp_length = (8 + message.len()) as u16;
    let mut ip =
        [&[0x45, 0][..], &(20 + udp_length).to_be_bytes(), &[0, 0, 0x40, 0, 64, 17, 0, 0]].concat();
    ip.extend(from.octets());
    ip.extend(to.octets());
    let words = ip.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let check = !((sum & 0xFFFF) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let udp = [[0x9C, 0x40], [0, 53], udp_length.to_be_bytes(), [0, 0]].concat();
    let all = [&to_mac[..], &from_mac, &[8, 0], &ip, &udp, &message].concat();
    let mut frame = [0; FRAME];
    frame[..all.len()].copy_from_slice(&all);
    frame
}
