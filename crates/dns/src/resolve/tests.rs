//! Answers, read back by another library.

use std::net::Ipv4Addr;
use std::str::FromStr;

use hickory_proto::op::{Message, Query as Question, ResponseCode};
use hickory_proto::rr::{Name as Theirs, RData, RecordType};

use super::*;
use crate::answer;
use crate::wire::{self, MOST_NAME_BYTES};
use crate::zone::{Endpoint, Kind, Port, Records, Service};

fn records() -> Records {
    let port = |name: &str, number| Port { name: name.into(), protocol: "TCP".into(), number };
    let place = |last, hostname: Option<&str>| Endpoint {
        address: Ipv4Addr::new(10, 42, 0, last).into(),
        hostname: hostname.map(str::to_owned),
        ports: vec![port("web", 8080)],
    };
    let service = |name: &str, kind, endpoints| Service {
        namespace: "default".into(),
        name: name.into(),
        kind,
        ports: vec![port("web", 80)],
        endpoints,
    };
    Records {
        services: vec![
            service("plain", Kind::Addresses(vec![Ipv4Addr::new(10, 43, 0, 9).into()]), vec![]),
            service("headless", Kind::Headless, vec![place(5, None), place(6, Some("db-0"))]),
            service("empty", Kind::Headless, vec![]),
            service("outside", Kind::External("example.org".into()), vec![]),
        ],
    }
}

/// Asks the zone as over the wire; `None` when it would be forwarded.
fn ask(name: &str, kind: RecordType, limit: usize) -> Option<Message> {
    let zone = Zone::build(&records(), &wire::Name::parse("cluster.local").unwrap());
    let mut message = Message::query();
    message.add_query(Question::query(Theirs::from_str(name).unwrap(), kind));
    let bytes = message.to_vec().unwrap();
    let mut place = [0; MOST_NAME_BYTES];
    let query = wire::read(&bytes, &mut place).unwrap();
    let mut out = Vec::new();
    match resolve(&zone, &query, 0) {
        Resolved::Known(parts) => answer::write(&query, &parts, limit, &mut out),
        Resolved::Made(made) => {
            let parts = Parts { answers: Some(&made), ..Parts::default() };
            answer::write(&query, &parts, limit, &mut out);
        }
        Resolved::Alias(_) | Resolved::Forward => return None,
    }
    Some(Message::from_vec(&out).unwrap())
}

fn data(message: &Message) -> Vec<String> {
    let mut data: Vec<String> =
        message.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}

#[test]
fn names_of_the_specification_are_answered() {
    for (name, kind, expected) in [
        ("plain.default.svc.cluster.local.", RecordType::A, vec!["10.43.0.9"]),
        ("PLAIN.default.SVC.cluster.local.", RecordType::A, vec!["10.43.0.9"]),
        ("headless.default.svc.cluster.local.", RecordType::A, vec!["10.42.0.5", "10.42.0.6"]),
        ("db-0.headless.default.svc.cluster.local.", RecordType::A, vec!["10.42.0.6"]),
        ("10-42-0-5.headless.default.svc.cluster.local.", RecordType::A, vec!["10.42.0.5"]),
        ("1-2-3-4.default.pod.cluster.local.", RecordType::A, vec!["1.2.3.4"]),
        ("dns-version.cluster.local.", RecordType::TXT, vec!["1.1.0"]),
        ("outside.default.svc.cluster.local.", RecordType::CNAME, vec!["example.org."]),
        (
            "_web._tcp.plain.default.svc.cluster.local.",
            RecordType::SRV,
            vec!["0 100 80 plain.default.svc.cluster.local."],
        ),
        (
            "_web._tcp.headless.default.svc.cluster.local.",
            RecordType::SRV,
            vec![
                "0 100 8080 10-42-0-5.headless.default.svc.cluster.local.",
                "0 100 8080 db-0.headless.default.svc.cluster.local.",
            ],
        ),
        ("9.0.43.10.in-addr.arpa.", RecordType::PTR, vec!["plain.default.svc.cluster.local."]),
        (
            "6.0.42.10.in-addr.arpa.",
            RecordType::PTR,
            vec!["db-0.headless.default.svc.cluster.local."],
        ),
    ] {
        let answer = ask(name, kind, 1232).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
        assert_eq!(data(&answer), expected, "{name}");
    }
}

#[test]
fn a_name_without_the_record_differs_from_no_name() {
    for (name, kind, code) in [
        ("plain.default.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError),
        ("empty.default.svc.cluster.local.", RecordType::A, ResponseCode::NoError),
        ("default.svc.cluster.local.", RecordType::A, ResponseCode::NoError),
        ("svc.cluster.local.", RecordType::A, ResponseCode::NoError),
        ("absent.default.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("x.plain.default.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("1-2-3-999.default.pod.cluster.local.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let answer = ask(name, kind, 1232).unwrap();
        assert_eq!(answer.metadata.response_code, code, "{name}");
        assert!(answer.answers.is_empty(), "{name}");
        let authority = answer.authorities.first().map(|record| record.record_type());
        assert_eq!(authority, Some(RecordType::SOA), "{name}");
    }
}

#[test]
fn other_names_and_those_that_stand_for_others_are_forwarded() {
    for name in [
        "outside.default.svc.cluster.local.",
        "example.org.",
        "cluster.locale.",
        "local.",
        "1.1.1.1.in-addr.arpa.",
    ] {
        assert!(ask(name, RecordType::A, 1232).is_none(), "{name}");
    }
}

#[test]
fn srv_answers_bring_the_addresses_along() {
    let answer = ask("_web._tcp.headless.default.svc.cluster.local.", RecordType::SRV, 1232);
    let additional = answer.unwrap().additionals;
    assert!(
        additional.iter().any(
            |record| matches!(&record.data, RData::A(a) if a.0 == Ipv4Addr::new(10, 42, 0, 6))
        )
    );
}

#[test]
fn what_does_not_fit_is_left_out_and_the_client_told() {
    let answer = ask("headless.default.svc.cluster.local.", RecordType::A, 60).unwrap();
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    let whole = ask("headless.default.svc.cluster.local.", RecordType::A, 512).unwrap();
    assert!(!whole.metadata.truncation);
}
