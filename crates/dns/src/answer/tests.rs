//! Answers, read back by another library.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as TheirQuery, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use k8s_openapi::serde_json::{Value, json};
use proptest::prelude::*;

use super::*;
use crate::facts::{self, Facts};
use crate::name::Domain;
use crate::zone::{Clusters, Layers, Policies};

fn facts() -> Facts {
    let mut facts = Facts::default();
    let mut service = |namespace: &str, name: &str, spec: Value| {
        let value = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        let service = serde_json::from_value(value).expect("a service");
        let known = facts::of_service(&service).expect("it has an address");
        facts.services.insert(format!("{namespace}/{name}"), known);
    };
    let ports =
        json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    service("default", "web", json!({"clusterIP": "10.43.0.9", "ports": ports}));
    service(
        "default",
        "dual",
        json!({"clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.8", "fd00::8"]}),
    );
    service(
        "default",
        "db",
        json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
    );
    service("default", "many", json!({"clusterIP": "None"}));
    service("default", "idle", json!({"clusterIP": "None"}));
    service("default", "out", json!({"type": "ExternalName", "externalName": "Example.org"}));
    service("kube-system", "kube-dns", json!({"clusterIP": "10.43.0.10"}));
    let mut slice = |name: &str, service: &str, endpoints: Value| {
        let value = json!({
            "metadata": {"namespace": "default", "name": name,
                "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "sql", "port": 15432, "protocol": "TCP"}]
        });
        let slice = serde_json::from_value(value).expect("a slice");
        let known = facts::of_slice(&slice).expect("it has a service");
        facts.slices.insert(format!("default/{name}"), known);
    };
    let endpoints = json!([
        {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.42.0.6"], "conditions": {}},
        {"addresses": ["10.42.0.7"], "conditions": {"ready": false}},
    ]);
    slice("db-1", "db", endpoints);
    let many = (1..=200).map(|n| json!({"addresses": [format!("10.42.1.{n}")]})).collect();
    slice("many-1", "many", many);
    slice("idle-1", "idle", json!([{"addresses": ["10.42.0.9"], "conditions": {"ready": false}}]));
    facts
}

static OWN: std::sync::LazyLock<Own> = std::sync::LazyLock::new(Own::default);

fn via(transport: Transport) -> Via<'static> {
    Via { transport, client: IpAddr::from([10, 0, 0, 1]), own: &OWN }
}

fn zone() -> Layers {
    let domains = vec![Domain::parse("cluster.local").expect("a domain")];
    let facts = facts();
    let clusters = Clusters::new(domains, Policies::new(), vec![(facts, 0)]);
    Layers::default().with_clusters(&clusters)
}

fn packet(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(99, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(TheirQuery::query(Name::from_ascii(name).expect("a name"), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_version(0);
        message.set_edns(edns);
    }
    message.to_vec().expect("it encodes")
}

/// The answer as an independent implementation reads it.
fn ask_with(
    name: &str,
    kind: RecordType,
    payload: Option<u16>,
    over: Transport,
) -> (Message, usize) {
    let mut out = vec![0; 65535];
    let Outcome::Reply(length) = answer(&zone(), &packet(name, kind, payload), via(over), &mut out)
    else {
        panic!("{name} is answered");
    };
    let message = Message::from_vec(&out[..length]).expect("it can be read");
    assert_eq!(message.metadata.id, 99);
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
    assert_eq!(message.queries[0].name().to_ascii(), name);
    (message, length)
}

fn ask(name: &str, kind: RecordType) -> Message {
    ask_with(name, kind, Some(1232), Transport::Udp).0
}

/// Data of all answers as text, sorted.
fn data(message: &Message) -> Vec<String> {
    let mut all: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
    all.sort();
    all
}

#[test]
fn names_have_the_records_that_the_specification_says() {
    let check = |name: &str, kind, expected: &[&str]| {
        let message = ask(name, kind);
        assert_eq!(data(&message), expected, "{name} {kind}");
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        assert!(message.metadata.authoritative);
        for record in &message.answers {
            assert_eq!((record.name.to_ascii(), record.ttl), (name.to_owned(), TTL));
        }
    };
    use RecordType::*;
    check("web.default.svc.cluster.local.", A, &["10.43.0.9"]);
    check("WEB.Default.svc.cluster.LOCAL.", A, &["10.43.0.9"]);
    check("dual.default.svc.cluster.local.", AAAA, &["fd00::8"]);
    check("db.default.svc.cluster.local.", A, &["10.42.0.5", "10.42.0.6"]);
    check("db-0.db.default.svc.cluster.local.", A, &["10.42.0.5"]);
    check("10-42-0-6.db.default.svc.cluster.local.", A, &["10.42.0.6"]);
    check(
        "_http._tcp.web.default.svc.cluster.local.",
        SRV,
        &["0 100 80 web.default.svc.cluster.local."],
    );
    check(
        "_dns._udp.web.default.svc.cluster.local.",
        SRV,
        &["0 100 53 web.default.svc.cluster.local."],
    );
    check(
        "_sql._tcp.db.default.svc.cluster.local.",
        SRV,
        &[
            "0 100 15432 10-42-0-6.db.default.svc.cluster.local.",
            "0 100 15432 db-0.db.default.svc.cluster.local.",
        ],
    );
    check("9.0.43.10.in-addr.arpa.", PTR, &["web.default.svc.cluster.local."]);
    check("5.0.42.10.in-addr.arpa.", PTR, &["db-0.db.default.svc.cluster.local."]);
    check("out.default.svc.cluster.local.", CNAME, &["example.org."]);
    check("dns-version.cluster.local.", TXT, &["1.1.0"]);
    check("10-42-0-7.default.pod.cluster.local.", A, &["10.42.0.7"]);
    check("fd00--7.default.pod.cluster.local.", AAAA, &["fd00::7"]);
    check("cluster.local.", NS, &["ns.dns.cluster.local."]);
    check("ns.dns.cluster.local.", A, &["10.43.0.10"]);
    check("web.default.svc.cluster.local.", ANY, &["10.43.0.9"]);
}

#[test]
fn what_is_not_there_is_told_from_what_has_no_such_record() {
    let check = |name: &str, kind, code| {
        let message = ask(name, kind);
        assert_eq!(message.metadata.response_code, code, "{name} {kind}");
        assert!(message.answers.is_empty(), "{name} {kind}");
        let soa = &message.authorities[0];
        assert_eq!(soa.name.to_ascii(), "cluster.local.");
        assert!(matches!(&soa.data, RData::SOA(soa) if soa.minimum == TTL));
    };
    use RecordType::*;
    let (none, no_data) = (ResponseCode::NXDomain, ResponseCode::NoError);
    check("web.default.svc.cluster.local.", AAAA, no_data);
    check("web.default.svc.cluster.local.", MX, no_data);
    check("default.svc.cluster.local.", A, no_data);
    check("svc.cluster.local.", A, no_data);
    check("_tcp.web.default.svc.cluster.local.", SRV, no_data);
    check("cluster.local.", A, no_data);
    check("pod.cluster.local.", A, no_data);
    check("default.pod.cluster.local.", A, no_data);
    check("10-42-0-7.default.pod.cluster.local.", AAAA, no_data);
    check("nobody.default.svc.cluster.local.", A, none);
    check("web.other.svc.cluster.local.", A, none);
    check("x.web.default.svc.cluster.local.", A, none);
    check("web.default.pod.cluster.local.", A, none);
    check("a.10-42-0-7.default.pod.cluster.local.", A, none);
    check("idle.default.svc.cluster.local.", A, none);
    check("10-42-0-7.db.default.svc.cluster.local.", A, none);
    check("www.example.org.cluster.local.", A, none);
}

#[test]
fn srv_answers_bring_the_addresses_of_their_targets() {
    let message = ask("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV);
    let found = |name: &str, ip: [u8; 4]| {
        message.additionals.iter().any(|record| {
            let ip = Ipv4Addr::from(ip);
            record.name.to_ascii() == name && matches!(&record.data, RData::A(a) if a.0 == ip)
        })
    };
    assert!(found("db-0.db.default.svc.cluster.local.", [10, 42, 0, 5]));
    assert!(found("10-42-0-6.db.default.svc.cluster.local.", [10, 42, 0, 6]));
}

#[test]
fn an_answer_that_does_not_fit_says_so_and_fits_over_tcp() {
    let many = "many.default.svc.cluster.local.";
    for (payload, most) in [(None, 512), (Some(100), 512), (Some(1000), 1000), (Some(4096), 1232)] {
        let (message, length) = ask_with(many, RecordType::A, payload, Transport::Udp);
        assert!(message.metadata.truncation && length <= most, "{length} of {most}");
        assert!(message.answers.len() > 20, "what fits is there");
        assert_eq!(message.edns.is_some(), payload.is_some());
    }
    let (message, _) = ask_with(many, RecordType::A, Some(1232), Transport::Tcp);
    assert!(!message.metadata.truncation);
    assert_eq!(message.answers.len(), 200);
}

#[test]
fn names_beyond_the_cluster_and_aliases_are_asked_elsewhere() {
    let outcome = |name, kind| {
        answer(&zone(), &packet(name, kind, None), via(Transport::Udp), &mut [0; MAX_UDP])
    };
    for name in ["example.org.", "xcluster.local.", "1.0.0.127.in-addr.arpa.", "local.", "."] {
        assert_eq!(outcome(name, RecordType::A), Outcome::Forward, "{name}");
    }
    assert_eq!(outcome("out.default.svc.cluster.local.", RecordType::A), Outcome::Forward);
}

#[test]
fn transfers_other_classes_and_newer_edns_are_refused() {
    let reply_code = |packet: &[u8]| {
        let mut out = [0; MAX_UDP];
        let Outcome::Reply(length) = answer(&zone(), packet, via(Transport::Udp), &mut out) else {
            panic!("it is answered");
        };
        Message::from_vec(&out[..length]).expect("it can be read").metadata.response_code
    };
    let name = "web.default.svc.cluster.local.";
    assert_eq!(reply_code(&packet(name, RecordType::AXFR, None)), ResponseCode::Refused);
    let mut chaos = packet(name, RecordType::TXT, None);
    *chaos.last_mut().expect("bytes") = 3;
    assert_eq!(reply_code(&chaos), ResponseCode::Refused);
    let mut newer = packet(name, RecordType::A, Some(1232));
    let version = newer.len() - 5;
    newer[version] = 1;
    // 16 is BADVERS in an EDNS answer and BADSIG in a signed one.
    assert_eq!(u16::from(reply_code(&newer)), code::BAD_VERSION);
}

#[test]
fn the_records_of_a_set_take_turns() {
    let zone = zone();
    let mut bytes = packet("db.default.svc.cluster.local.", RecordType::A, None);
    let mut first = |id: u8| {
        bytes[1] = id;
        let mut out = [0; MAX_UDP];
        let Outcome::Reply(length) = answer(&zone, &bytes, via(Transport::Udp), &mut out) else {
            panic!("it is answered");
        };
        Message::from_vec(&out[..length]).expect("it can be read").answers[0].data.to_string()
    };
    assert_ne!(first(0), first(1));
}

proptest! {
    #[test]
    fn what_is_refused_gets_little_more_than_it_sent(
        bytes in proptest::collection::vec(any::<u8>(), 12..800),
        name in "[a-z]{1,30}",
        cut in 0usize..60,
    ) {
        // Half of the packets begin as a query does.
        let mut packets = vec![bytes.clone()];
        let mut begun = packet(&format!("{name}.default.svc.cluster.local."), RecordType::A, Some(4096));
        begun.truncate(begun.len() - cut.min(begun.len() - 12));
        begun.extend_from_slice(&bytes[..bytes.len() / 4]);
        packets.push(begun);
        for packet in packets {
            let mut out = [0; MAX_UDP];
            if crate::query::parse(&packet).is_err()
                && let Outcome::Reply(length) = answer(&zone(), &packet, via(Transport::Udp), &mut out)
            {
                prop_assert!(length <= packet.len() + OPT_LENGTH, "{} for {}", length, packet.len());
            }
        }
    }

    #[test]
    fn no_packet_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..800)) {
        let mut out = [0; MAX_UDP];
        let _ = answer(&zone(), &bytes, via(Transport::Udp), &mut out);
    }

    #[test]
    fn whatever_name_is_asked_for_the_answer_can_be_read(
        labels in proptest::collection::vec("[-_a-z0-9]{1,20}", 0..8),
        ours: bool,
        kind in 1u16..300,
    ) {
        let mut name = labels.join(".");
        if ours {
            name = format!("{name}.cluster.local");
        }
        let name = format!("{}.", name.trim_start_matches('.'));
        let kind = RecordType::from(kind);
        if let Ok(parsed) = Name::from_ascii(&name) {
            let mut message = Message::new(1, MessageType::Query, OpCode::Query);
            message.add_query(TheirQuery::query(parsed, kind));
            if let Ok(bytes) = message.to_vec() {
                let mut out = [0; MAX_UDP];
                let outcome = answer(&zone(), &bytes, via(Transport::Udp), &mut out);
                if let Outcome::Reply(length) = outcome {
                    Message::from_vec(&out[..length]).expect("it can be read");
                }
            }
        }
    }
}

const WRITTEN: &str = "$ORIGIN example.org.\n$TTL 1h\n@ SOA ns admin 7 2h 15m 1w 30\n@ NS ns\n\
    ns A 192.0.2.1\nwww CNAME Web\nweb A 192.0.2.2\nweb A 192.0.2.3\nfar CNAME www.elsewhere.net.\n\
    *.wild TXT any\n*.wild A 192.0.2.9\nthere.wild A 192.0.2.4\na.b.deep A 192.0.2.5\n\
    long CNAME www\nsub NS ns.sub\nsub NS ns\nns.sub A 192.0.2.53\nx.sub A 192.0.2.66\n\
    to CNAME host.sub\n";

/// Asks the zone above.
fn written(name: &str, kind: RecordType) -> Message {
    let (file, problems) = crate::zone::file::read(WRITTEN.as_bytes(), None).expect("in order");
    assert_eq!(problems, []);
    let zones = [std::sync::Arc::new(file)];
    let layers = Layers::default().with_written(&zones, &Policies::new());
    let mut out = [0; MAX_UDP];
    let mut asked = packet(name, kind, Some(1232));
    asked[2] &= !1; // no recursion wanted
    let Outcome::Reply(length) = answer(&layers, &asked, via(Transport::Udp), &mut out) else {
        panic!("{name} is answered");
    };
    Message::from_vec(&out[..length]).expect("it can be read")
}

#[test]
fn written_zones_answer_as_the_standards_say() {
    use RecordType::{A, AAAA, ANY, CNAME, DS, MX, SOA, TXT};
    let all = |name: &str, kind| {
        let message = written(name, kind);
        assert!(message.metadata.authoritative, "{name}");
        let shown = |r: &hickory_proto::rr::Record| format!("{} {} {}", r.name, r.ttl, r.data);
        let mut records: Vec<_> = message.answers.iter().map(shown).collect();
        records.sort();
        (u16::from(message.metadata.response_code), records, message.authorities.len())
    };
    let check = |name: &str, kind, code: u16, expected: &[&str], authorities: usize| {
        let expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(all(name, kind), (code, expected, authorities), "{name} {kind}");
    };
    check(
        "web.Example.org.",
        A,
        0,
        &["web.Example.org. 3600 192.0.2.2", "web.Example.org. 3600 192.0.2.3"],
        0,
    );
    check(
        "example.org.",
        SOA,
        0,
        &["example.org. 3600 ns.example.org. admin.example.org. 7 7200 900 604800 30"],
        0,
    );
    check("www.example.org.", CNAME, 0, &["www.example.org. 3600 Web.example.org."], 0);
    // Aliases, their target's records behind them.
    check(
        "long.example.org.",
        A,
        0,
        &[
            "Web.example.org. 3600 192.0.2.2",
            "Web.example.org. 3600 192.0.2.3",
            "long.example.org. 3600 www.example.org.",
            "www.example.org. 3600 Web.example.org.",
        ],
        0,
    );
    check("www.example.org.", MX, 0, &["www.example.org. 3600 Web.example.org."], 1);
    check("far.example.org.", A, 0, &["far.example.org. 3600 www.elsewhere.net."], 0);
    // RFC 4592: what exists is no wildcard's, nor is what is below it.
    check("x.wild.example.org.", A, 0, &["x.wild.example.org. 3600 192.0.2.9"], 0);
    check("x.y.wild.example.org.", TXT, 0, &["x.y.wild.example.org. 3600 any"], 0);
    check("x.wild.example.org.", AAAA, 0, &[], 1);
    check("there.wild.example.org.", TXT, 0, &[], 1);
    check("x.there.wild.example.org.", A, 3, &[], 1);
    check("wild.example.org.", A, 0, &[], 1);
    // RFC 8020: names between exist.
    check("deep.example.org.", A, 0, &[], 1);
    check("c.deep.example.org.", A, 3, &[], 1);
    check("nobody.example.org.", ANY, 3, &[], 1);
    check("sub.example.org.", DS, 0, &[], 1);
    let soa = &written("nobody.example.org.", A).authorities[0];
    assert_eq!((soa.name.to_ascii().as_str(), soa.ttl), ("example.org.", 30), "RFC 2308");
    // Delegations: not ours, and how to reach who answers.
    for name in
        ["sub.example.org.", "x.sub.example.org.", "ns.sub.example.org.", "q.x.sub.example.org."]
    {
        let message = written(name, A);
        assert!(!message.metadata.authoritative && message.answers.is_empty(), "{name}");
        let servers: Vec<_> =
            message.authorities.iter().map(|r| (r.name.to_ascii(), r.data.to_string())).collect();
        let server = |name: &str| ("sub.example.org.".to_owned(), name.to_owned());
        assert_eq!(servers, [server("ns.sub.example.org."), server("ns.example.org.")], "{name}");
        let glue: Vec<_> = message.additionals.iter().map(|r| r.data.to_string()).collect();
        assert_eq!(glue, ["192.0.2.53", "192.0.2.1"], "{name}");
    }
    let message = written("to.example.org.", A);
    assert_eq!((message.answers.len(), message.authorities.len()), (1, 2));
    assert_eq!(message.authorities[0].name.to_ascii(), "sub.example.org.", "in the alias's target");
}

#[test]
fn a_service_of_two_clusters_has_the_addresses_of_both_and_the_nearest_first() {
    let domains = vec![Domain::parse("cluster.local").expect("a domain")];
    let of = |ip: &str| {
        let mut facts = Facts::default();
        let value = json!({"metadata": {"namespace": "default", "name": "web", "annotations":
            {"dns.berth.dev/policy": "{\"order\":\"fixed\",\"nearest\":true}"}},
            "spec": {"clusterIP": ip}});
        let service = serde_json::from_value(value).expect("a service");
        let known = facts::of_service(&service).expect("it has an address");
        facts.services.insert("default/web".into(), known);
        facts
    };
    let (east, west) = (of("10.1.0.1"), of("10.2.0.1"));
    let clusters = Clusters::new(domains, Policies::new(), vec![(east, 1), (west, 2)]);
    let layers = Layers::default().with_clusters(&clusters);
    let networks = vec![(IpAddr::from([10, 1, 0, 0]), 16, 1), (IpAddr::from([10, 2, 0, 0]), 16, 2)];
    let own = Own { sites: crate::zone::Sites::new(networks), ..Own::default() };
    let ask = |client: [u8; 4]| {
        let via = Via { transport: Transport::Udp, client: client.into(), own: &own };
        let mut out = [0; MAX_UDP];
        let asked = packet("web.default.svc.cluster.local.", RecordType::A, None);
        let Outcome::Reply(length) = answer(&layers, &asked, via, &mut out) else {
            panic!("it is answered");
        };
        data(&Message::from_vec(&out[..length]).expect("it can be read"))
    };
    assert_eq!(ask([10, 1, 5, 5]), ["10.1.0.1"]);
    assert_eq!(ask([10, 2, 5, 5]), ["10.2.0.1"]);
    assert_eq!(ask([10, 3, 5, 5]), ["10.1.0.1", "10.2.0.1"]);
}

#[test]
fn a_server_says_its_name_and_makes_cookies_for_those_who_have_one() {
    let own = Own { nsid: b"dns-1".to_vec(), secret: [7; 16], ..Own::default() };
    let client = IpAddr::from([10, 0, 0, 1]);
    let mut asked = packet("web.default.svc.cluster.local.", RecordType::A, Some(1232));
    let options = [0, 3, 0, 0, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let length = asked.len();
    asked[length - 1] = options.len() as u8;
    asked.extend_from_slice(&options);
    let mut out = [0; MAX_UDP];
    let via = Via { transport: Transport::Udp, client, own: &own };
    let Outcome::Reply(length) = answer(&zone(), &asked, via, &mut out) else {
        panic!("it is answered");
    };
    let message = Message::from_vec(&out[..length]).expect("it can be read");
    let edns = message.edns.expect("there is an OPT record");
    assert!(format!("{edns:?}").contains("100, 110, 115, 45, 49"), "{edns:?}");
    let cookie = &out[length - 24..length];
    assert_eq!(&cookie[..8], &options[8..]);
    let shown =
        crate::query::Edns { payload: 1232, dnssec: false, nsid: false, cookie: Some(cookie) };
    assert!(own.is_known(&shown, client));
}
