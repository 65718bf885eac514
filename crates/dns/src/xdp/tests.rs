//! The program as the kernel runs it, beside the code that answers at the sockets: the same packet
//! to both, the same bytes back. Needs root: the kernel runs programs for nobody else.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::kernel::Kernel;
use super::table::Table;
use super::{Counted, Mode, Xdp};
use crate::answer::{MAX_UDP, Outcome, Transport, Via, answer};
use crate::name::encode;
use crate::own::Own;
use crate::query::kind;
use crate::zone::policy::{Order, Wanted};
use crate::zone::{Layers, Policies, file};

const PASS: u32 = 2;
const TX: u32 = 3;
const SERVER: [u8; 4] = [192, 0, 2, 53];
const SERVER_6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53];
const CLIENT_6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

const ZONE: &str = "$ORIGIN example.org.\n$TTL 300\n@ SOA ns admin 1 7200 1800 86400 60\n@ NS ns\n\
    @ MX 10 mail\nns A 192.0.2.53\nmail A 192.0.2.25\none A 192.0.2.1\n\
    two A 192.0.2.1\ntwo A 192.0.2.2\nmany A 10.0.0.1\nmany A 10.0.0.2\nmany A 10.0.0.3\n\
    many A 10.0.0.4\nmany A 10.0.0.5\nsix AAAA 2001:db8::1\nsix AAAA 2001:db8::2\n\
    alias CNAME many\nfar CNAME www.example.com.\ntext TXT \"a\"\ntext TXT \"longer\"\n\
    text TXT \"bc\"\n_http._tcp SRV 0 1 80 one\nfixed A 10.0.0.2\nfixed A 10.0.0.1\n\
    robin A 10.0.0.1\nrobin A 10.0.0.2\nrobin A 10.0.0.3\nweighted A 10.0.0.1\n\
    weighted A 10.0.0.2\n*.wild A 10.1.1.1\nsub NS ns.sub\nns.sub A 10.2.2.2\n\
    big TXT \"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\"\n\
    big TXT \"other\"\n";

fn zone_of(text: &str) -> Layers {
    let (read, _) = file::read(text.as_bytes(), None).expect("a zone");
    let mut policies = Policies::new();
    for (name, order) in [
        ("fixed.example.org", Order::Fixed),
        ("robin.example.org", Order::RoundRobin),
        ("weighted.example.org", Order::Weighted),
    ] {
        let wanted = Wanted { order, ..Wanted::default() };
        policies.insert(encode(name).expect("a name"), wanted);
    }
    Layers::default().with_written(&[Arc::new(read)], &policies)
}

/// A program without an interface; `None` on a laptop without root.
fn kernel(rate: u32) -> Option<Kernel> {
    let mut wanted = Xdp::on(vec![]);
    (wanted.mode, wanted.names) = (Mode::Generic, 1000);
    wanted.addresses = vec![IpAddr::from(SERVER_6)];
    let listen = (Ipv4Addr::from(SERVER), 53).into();
    match Kernel::attach(&wanted, listen, rate) {
        Ok(kernel) => Some(kernel),
        Err(error) if std::env::var_os("CI").is_none() && !nix::unistd::geteuid().is_root() => {
            eprintln!("skipped, the kernel runs programs for root alone: {error}");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn filled(zone: &Layers) -> Option<Kernel> {
    let mut kernel = kernel(0)?;
    Table::new(1000).follow(kernel.answers(), zone).expect("the table is written");
    Some(kernel)
}

/// A question without or with an OPT record.
fn question(name: &str, kind: u16, id: u16, edns: bool) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    if edns {
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    packet
}

fn sum(bytes: &[u8], mut sum: u32) -> u16 {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 > 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut udp = vec![0x9C, 0x40, 0, 53];
    udp.extend(((payload.len() + 8) as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    udp
}

fn over_v4(payload: &[u8]) -> Vec<u8> {
    let udp = udp(payload);
    let mut ip = vec![0x45, 0];
    ip.extend(((udp.len() + 20) as u16).to_be_bytes());
    ip.extend([0, 9, 0x40, 0, 61, 17, 0, 0, 10, 0, 0, 7]);
    ip.extend(SERVER);
    let check = !sum(&ip, 0);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend(ip);
    frame.extend(udp);
    frame
}

fn over_v6(payload: &[u8]) -> Vec<u8> {
    let mut udp = udp(payload);
    let pseudo = [&CLIENT_6[..], &SERVER_6, &[0, 0, udp[4], udp[5], 0, 0, 0, 17]].concat();
    let check = !sum(&udp, u32::from(sum(&pseudo, 0)));
    udp[6..8].copy_from_slice(&check.to_be_bytes());
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xDD, 0x60, 0, 0, 0];
    frame.extend((udp.len() as u16).to_be_bytes());
    frame.extend([17, 61]);
    frame.extend(CLIENT_6);
    frame.extend(SERVER_6);
    frame.extend(udp);
    frame
}

/// The DNS message in an answer whose headers are right; fails where they are not.
fn message(asked: &[u8], frame: &[u8]) -> Vec<u8> {
    assert_eq!((&frame[..6], &frame[6..12]), (&asked[6..12], &asked[..6]), "turned round");
    assert_eq!(frame[12..14], asked[12..14]);
    let at = if frame[12] == 8 {
        assert_eq!(sum(&frame[14..34], 0), 0xFFFF, "the header's checksum");
        assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), frame.len() - 14);
        assert_eq!((&frame[26..30], &frame[30..34]), (&asked[30..34], &asked[26..30]));
        34
    } else {
        let length = frame.len() - 54;
        assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), length);
        assert_eq!((&frame[22..38], &frame[38..54]), (&asked[38..54], &asked[22..38]));
        let pseudo = [&frame[22..54], &[0, 0, frame[18], frame[19], 0, 0, 0, 17]].concat();
        assert_eq!(sum(&frame[54..], u32::from(sum(&pseudo, 0))), 0xFFFF, "the checksum");
        54
    };
    assert_eq!((&frame[at..at + 2], &frame[at + 2..at + 4]), (&[0, 53][..], &[0x9C, 0x40][..]));
    assert_eq!(usize::from(u16::from_be_bytes([frame[at + 4], frame[at + 5]])), frame.len() - at);
    frame[at + 8..].to_vec()
}

fn at_sockets(zone: &Layers, packet: &[u8]) -> Option<Vec<u8>> {
    let mut out = [0; MAX_UDP];
    let own = Own::default();
    let via = Via { transport: Transport::Udp, client: IpAddr::from([10, 0, 0, 7]), own: &own };
    match answer(zone, packet, via, &mut out) {
        Outcome::Reply(length) => Some(out[..length].to_vec()),
        _ => None,
    }
}

#[test]
fn the_kernel_says_what_the_sockets_say() {
    let zone = zone_of(ZONE);
    let Some(kernel) = filled(&zone) else { return };
    let mut answered = 0;
    for (name, kind) in [
        ("one", kind::A),
        ("one", kind::AAAA),
        ("two", kind::A),
        ("many", kind::A),
        ("MaNy", kind::A),
        ("six", kind::AAAA),
        ("six", kind::A),
        ("alias", kind::A),
        ("alias", kind::CNAME),
        ("alias", kind::AAAA),
        ("far", kind::CNAME),
        ("text", kind::TXT),
        ("_http._tcp", kind::SRV),
        ("", kind::MX),
        ("", kind::SOA),
        ("", kind::NS),
        ("fixed", kind::A),
    ] {
        let name = format!("{name}.example.org");
        for id in [0, 1, 2, 3, 0x4321, 0xFFFF] {
            for edns in [false, true] {
                let packet = question(&name, kind, id, edns);
                let expected = at_sockets(&zone, &packet).expect("it is answered");
                for frame in [over_v4(&packet), over_v6(&packet)] {
                    let (action, sent) = kernel.run(&frame);
                    assert_eq!(action, TX, "{name} {kind}");
                    assert_eq!(message(&frame, &sent), expected, "{name} {kind} {id} {edns}");
                    answered += 1;
                }
            }
        }
    }
    assert_eq!(kernel.counted().read(), Counted { answered, ..Counted::default() });
}

#[test]
fn each_turn_begins_one_further() {
    let zone = zone_of(ZONE);
    let Some(kernel) = filled(&zone) else { return };
    let frame = over_v4(&question("robin.example.org", kind::A, 5, false));
    let first = || kernel.run(&frame).1.get(34 + 8 + 12 + 19 + 4 + 15).copied();
    let begun: Vec<_> = (0..6).map(|_| first().expect("an address")).collect();
    assert_eq!(begun[..3], begun[3..]);
    let mut sorted = begun[..3].to_vec();
    sorted.sort_unstable();
    assert_eq!(sorted, [1, 2, 3]);
}

#[test]
fn what_only_the_sockets_know_passes_up_untouched() {
    let zone = zone_of(ZONE);
    let Some(kernel) = filled(&zone) else { return };
    let ask = |name: &str, kind| question(&format!("{name}.example.org"), kind, 7, false);
    let good = ask("one", kind::A);
    let edit = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    let with_option = |option: &[u8]| {
        let mut packet = question("one.example.org", kind::A, 7, true);
        let last = packet.len() - 1;
        packet[last] = option.len() as u8;
        packet.extend(option);
        packet
    };
    let mut version = question("one.example.org", kind::A, 7, true);
    let at = version.len() - 5;
    version[at] = 1;
    let long = format!("{}.example.org", "a".repeat(60));
    for (what, packet) in [
        ("weighted", ask("weighted", kind::A)),
        ("another name", ask("nobody", kind::A)),
        ("a wildcard", ask("x.wild", kind::A)),
        ("below a delegation", ask("host.sub", kind::A)),
        ("a delegation", ask("sub", kind::NS)),
        ("an alias to others", ask("far", kind::A)),
        ("a long answer", ask("big", kind::TXT)),
        ("another type", ask("one", kind::TXT)),
        ("any type", ask("one", kind::ANY)),
        ("a transfer", ask("", 252)),
        ("a foreign name", question("one.example.com", kind::A, 7, false)),
        ("the root", question("", kind::NS, 7, false)),
        ("a long name", question(&long, kind::A, 7, false)),
        ("a cookie", with_option(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])),
        ("NSID", with_option(&[0, 3, 0, 0])),
        ("a later version", version),
        ("a response", edit(2, 0x81)),
        ("a notification", edit(2, 0x20)),
        ("two questions", edit(5, 2)),
        ("an answer in it", edit(7, 1)),
        ("an authority in it", edit(9, 1)),
        ("a record that is not there", edit(11, 1)),
        ("another class", edit(good.len() - 1, 3)),
        ("a pointer", edit(12, 0xC0)),
        ("a label over the end", edit(12, 63)),
        ("bytes behind", [&good[..], &[0]].concat()),
        ("a byte too few", good[..good.len() - 1].to_vec()),
        ("a header alone", good[..12].to_vec()),
        ("no header", good[..5].to_vec()),
        ("nothing", vec![]),
    ] {
        for frame in [over_v4(&packet), over_v6(&packet)] {
            let (action, after) = kernel.run(&frame);
            assert_eq!((action, after), (PASS, frame), "{what}");
        }
    }
    let counted = kernel.counted().read();
    assert_eq!((counted.answered, counted.exchanged, counted.failed), (0, 0, 0));
}

#[test]
fn frames_that_are_not_plainly_for_us_pass_up_untouched() {
    let zone = zone_of(ZONE);
    let Some(kernel) = filled(&zone) else { return };
    let packet = question("one.example.org", kind::A, 7, false);
    let (v4, v6) = (over_v4(&packet), over_v6(&packet));
    assert_eq!((kernel.run(&v4).0, kernel.run(&v6).0), (TX, TX));
    // The checksum is made right again, or it alone would be the reason.
    let edit = |good: &[u8], at: usize, byte: u8| {
        let mut frame = good.to_vec();
        frame[at] = byte;
        if good[12] == 8 && (14..34).contains(&at) && at != 24 {
            frame[24..26].fill(0);
            let check = !sum(&frame[14..34], 0);
            frame[24..26].copy_from_slice(&check.to_be_bytes());
        }
        frame
    };
    for (what, frame) in [
        ("to many", edit(&v4, 0, 3)),
        ("from many", edit(&v4, 6, 3)),
        ("another protocol", edit(&v4, 13, 6)),
        ("a VLAN", [&v4[..12], &[0x81, 0, 0, 5], &v4[12..]].concat()),
        ("IP options", edit(&v4, 14, 0x46)),
        ("another version", edit(&v4, 14, 0x65)),
        ("a length over the end", edit(&v4, 17, v4[17] + 1)),
        ("a length too short", edit(&v4, 17, v4[17] - 1)),
        ("more fragments", edit(&v4, 20, 0x20)),
        ("a later fragment", edit(&v4, 21, 9)),
        ("TCP", edit(&v4, 23, 6)),
        ("a wrong checksum", edit(&v4, 24, v4[24] ^ 1)),
        ("from 127/8", edit(&v4, 26, 127)),
        ("from 0/8", edit(&v4, 26, 0)),
        ("from many", edit(&v4, 26, 224)),
        ("to another host", edit(&v4, 33, 54)),
        ("from port 0", edit(&edit(&v4, 34, 0), 35, 0)),
        ("to another port", edit(&v4, 37, 54)),
        ("a UDP length too long", edit(&v4, 39, v4[39] + 1)),
        ("a UDP length too short", edit(&v4, 39, v4[39] - 1)),
        ("an extension", edit(&v6, 20, 0)),
        ("from many", edit(&v6, 22, 0xFF)),
        ("to another host", edit(&v6, 53, 0x54)),
        ("no checksum", edit(&edit(&v6, 60, 0), 61, 0)),
        ("a length over the end", edit(&v6, 19, v6[19] + 1)),
    ] {
        let (action, after) = kernel.run(&frame);
        assert_eq!((action, after), (PASS, frame), "{what}");
    }
    for length in 14..v4.len() {
        let (action, after) = kernel.run(&v4[..length]);
        assert_eq!((action, after.len()), (PASS, length));
    }
    // What Ethernet filled up is no part of the question, and goes.
    let padded = [&v4[..], &[0; 20]].concat();
    assert_eq!(kernel.run(&padded).1, kernel.run(&v4).1);
}

#[test]
fn no_damage_makes_an_answer_wrong() {
    let zone = zone_of(ZONE);
    let Some(kernel) = filled(&zone) else { return };
    let seed: u64 = rand::random();
    let mut random = seed | 1;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as usize % below
    };
    let mut sent = 0;
    for _ in 0..20_000 {
        let names = ["many", "text", "alias", "one", "_http._tcp"];
        let kinds = [kind::A, kind::TXT, kind::A, kind::AAAA, kind::SRV];
        let which = next(names.len());
        let edns = next(2) == 1;
        let name = format!("{}.example.org", names[which]);
        let mut packet = question(&name, kinds[which], next(65536) as u16, edns);
        for _ in 0..next(4) {
            let at = next(packet.len());
            packet[at] = next(256) as u8;
        }
        if next(4) == 0 {
            packet.truncate(next(packet.len() + 1));
        }
        let mut frame = if next(2) == 0 { over_v4(&packet) } else { over_v6(&packet) };
        if next(4) == 0 {
            // Anywhere, the headers too.
            let at = next(frame.len());
            frame[at] = next(256) as u8;
        }
        let (action, after) = kernel.run(&frame);
        match action {
            PASS => assert_eq!(after, frame, "seed {seed}"),
            TX => {
                let at = if frame[12] == 8 { 42 } else { 62 };
                let end = at + usize::from(u16::from_be_bytes([frame[at - 4], frame[at - 3]])) - 8;
                let expected = at_sockets(&zone, &frame[at..end]);
                let told = &after[at..];
                assert_eq!(Some(told), expected.as_deref(), "seed {seed}, {frame:x?}");
                sent += 1;
            }
            other => panic!("action {other}, seed {seed}, {frame:x?}"),
        }
    }
    assert!(sent > 1000, "{sent} were answered");
}

#[test]
fn a_change_is_answered_and_what_is_gone_passes_up() {
    let zone = zone_of(ZONE);
    let Some(mut kernel) = kernel(0) else { return };
    let mut table = Table::new(1000);
    table.follow(kernel.answers(), &zone).expect("written");
    let frame = over_v4(&question("one.example.org", kind::A, 7, false));
    let last = |kernel: &Kernel| kernel.run(&frame).1.last().copied();
    assert_eq!(last(&kernel), Some(1));
    let other = zone_of(&ZONE.replace("one A 192.0.2.1\n", "one A 192.0.2.77\n"));
    table.follow(kernel.answers(), &other).expect("written");
    assert_eq!(last(&kernel), Some(77));
    // All that does not exist says the zone's serial.
    let none = over_v4(&question("two.example.org", kind::AAAA, 7, false));
    assert_eq!(message(&none, &kernel.run(&none).1), at_sockets(&other, &none[42..]).expect("it"));
    let later = zone_of(&ZONE.replace("admin 1 7200", "admin 2 7200"));
    table.follow(kernel.answers(), &later).expect("written");
    assert_eq!(message(&none, &kernel.run(&none).1), at_sockets(&later, &none[42..]).expect("it"));
    let gone = zone_of(&ZONE.replace("one A 192.0.2.1\n", ""));
    table.follow(kernel.answers(), &gone).expect("written");
    assert_eq!(kernel.run(&frame), (PASS, frame.clone()));
}

#[test]
fn over_the_rate_the_server_decides() {
    let zone = zone_of(ZONE);
    let Some(mut kernel) = kernel(50) else { return };
    Table::new(1000).follow(kernel.answers(), &zone).expect("written");
    let frame = over_v4(&question("one.example.org", kind::A, 7, false));
    let answered = (0..1000).filter(|_| kernel.run(&frame).0 == TX).count();
    // Counted by processor and second: a test may see two seconds, and be moved between some.
    assert!((50..600).contains(&answered), "{answered}");
    assert_eq!(kernel.counted().read().limited, 1000 - answered as u64);
    let mut other = frame.clone();
    other[28] = 1;
    other[24..26].fill(0);
    let check = !sum(&other[14..34], 0);
    other[24..26].copy_from_slice(&check.to_be_bytes());
    assert_eq!(kernel.run(&other).0, TX, "another network");
}

#[test]
fn a_question_asked_often_comes_in_and_one_asked_once_does_not() {
    let zone = zone_of(ZONE);
    let Some(mut kernel) = kernel(0) else { return };
    let mut table = Table::new(8);
    table.follow(kernel.answers(), &zone).expect("written");
    let often = over_v4(&question("x.wild.example.org", kind::A, 7, false));
    let never = over_v4(&question("nobody.example.org", kind::A, 7, false));
    let once = over_v4(&question("other.example.org", kind::A, 7, false));
    (0..10).for_each(|_| assert_eq!((kernel.run(&often).0, kernel.run(&never).0), (PASS, PASS)));
    kernel.run(&once);
    super::learn::learn(&mut table, &mut kernel, &zone).expect("it learns");
    assert_eq!(kernel.run(&once).0, PASS);
    for frame in [&often, &never] {
        let (action, sent) = kernel.run(frame);
        assert_eq!(action, TX);
        assert_eq!(Some(message(frame, &sent)), at_sockets(&zone, &frame[42..]));
    }
}

#[test]
fn whatever_comes_and_goes_the_kernel_says_what_the_sockets_say() {
    let Some(mut kernel) = kernel(0) else { return };
    let mut table = Table::new(1000);
    // So few that each finds a place, whatever the keys are.
    const NAMES: u16 = 150;
    let mut random = 7u64;
    for round in 0..30 {
        let mut text =
            format!("$ORIGIN example.org.\n@ 60 SOA ns admin {round} 1 1 1 1\n@ NS ns\n");
        for number in 0..NAMES {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            for address in 0..random % 6 {
                text.push_str(&format!("n{number} A 10.{round}.0.{address}\n"));
            }
            for address in 0..random / 6 % 4 {
                text.push_str(&format!("n{number} AAAA fd00::{round}:{address}\n"));
            }
        }
        let zone = zone_of(&text);
        table.follow(kernel.answers(), &zone).expect("written");
        for number in 0..NAMES {
            for kind in [kind::A, kind::AAAA] {
                let name = format!("n{number}.example.org");
                let packet = question(&name, kind, number, number % 2 == 0);
                let frame = over_v4(&packet);
                let (action, sent) = kernel.run(&frame);
                let expected = at_sockets(&zone, &packet).expect("it is answered");
                // Names that do not exist pass up.
                assert_eq!(action == TX, expected[3] & 15 == 0, "{round} {name}");
                if action == TX {
                    assert_eq!(message(&frame, &sent), expected, "{round} {name}");
                }
            }
        }
    }
}
