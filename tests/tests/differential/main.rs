//! The same few hundred requests to ours and to a real kube-apiserver: the answers must be equal,
//! once what differs by nature (UIDs, revisions, times, addresses) is taken out.
//!
//! The requests are in `tests/differential/*.yaml`, in order; what kube-apiserver 1.20 answered is
//! recorded beside them, so that the comparison runs where there is none. Where there is one
//! (`KUBEBUILDER_ASSETS`), it is asked anew, and the recording must still be what it says;
//! `RECORD=1` writes it. A difference that is meant has its reason in the request's `why`; all of
//! them are in docs/DIFFERENCES.md.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml lets only test functions, not what they call

mod answer;
mod install;
mod ours;
mod script;

use std::collections::BTreeMap;
use std::path::PathBuf;

use answer::Answer;
use berth_tests::{Kubernetes, TOKEN};
use script::{Request, Target};

fn directory() -> PathBuf {
    berth_tests::root().join("tests/differential")
}

/// Answers by `FILE:NUMBER METHOD PATH`.
type Answers = BTreeMap<String, Answer>;

fn ask(target: &Target, files: &[(String, Vec<Request>)]) -> Answers {
    let mut answers = Answers::new();
    for (file, requests) in files {
        let mut kept = BTreeMap::new();
        for (number, request) in requests.iter().enumerate() {
            let answer = target.send(request, &mut kept);
            answers.insert(format!("{file}:{:03} {}", number + 1, request.line()), answer);
        }
    }
    answers
}

/// Which of `ours` differ from `theirs` without being meant to, and in what.
fn differing(files: &[(String, Vec<Request>)], ours: &Answers, theirs: &Answers) -> Vec<String> {
    let mut differing = Vec::new();
    for (file, requests) in files {
        for (number, request) in requests.iter().enumerate() {
            let line = format!("{file}:{:03} {}", number + 1, request.line());
            let found = match (ours.get(&line), theirs.get(&line)) {
                (Some(ours), Some(theirs)) => ours.differences(theirs, &request.except),
                _ => vec!["not asked".to_owned()],
            };
            if !found.is_empty() {
                differing.push(format!("{line}\n    {}", found.join("\n    ")));
            }
        }
    }
    differing
}

#[test]
fn answers_are_those_of_a_real_api_server() {
    let files = script::read(&directory());
    let asked: usize = files.iter().map(|(_, requests)| requests.len()).sum();
    let recording = directory().join("kubernetes-1.20.json");
    let recorded: Answers = match std::fs::read(&recording) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
        Err(_) => Answers::new(),
    };
    let theirs = match Kubernetes::start().unwrap() {
        Some(real) => {
            let words =
                vec!["-k".to_owned(), "-H".to_owned(), format!("Authorization: Bearer {TOKEN}")];
            let live = ask(&Target { url: real.url(), words }, &files);
            if std::env::var_os("RECORD").is_some() {
                let text = serde_json::to_string_pretty(&live).unwrap();
                std::fs::write(&recording, text + "\n").unwrap();
            } else {
                assert_eq!(recorded.len(), asked, "requests were added: run this with RECORD=1");
                let anew = differing(&files, &live, &recorded);
                assert!(anew.is_empty(), "record it anew:\n{}", anew.join("\n"));
            }
            live
        }
        None => recorded,
    };
    assert_eq!(theirs.len(), asked, "the recording is not of these requests");
    let server = ours::Server::start();
    let mine = ask(&server.target(), &files);
    let differing = differing(&files, &mine, &theirs);
    assert!(
        differing.is_empty(),
        "{} of {asked} answers differ (ours | theirs):\n{}",
        differing.len(),
        differing.join("\n")
    );
}
