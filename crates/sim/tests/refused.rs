//! Bad recordings and tables are refused whole, by line and column.

#![allow(clippy::unwrap_used)] // a test's helpers fail like the test

use std::io::{Read, Write};

use berth_sim::Recording;
use berth_sim::openb;
use berth_sim::recording::{RecordedNode, RecordedPod};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

const HEAD: &str = "{\"berth\":\"recording\",\"version\":2}\n";
const NODE: &str = "{\"node\":{\"name\":\"n\",\"cpu_milli\":8000,\"memory_mib\":4096}}\n";

fn pack(text: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(text).unwrap();
    packed.finish().unwrap()
}

fn said(file: &[u8]) -> String {
    match Recording::read_from(file) {
        Ok(recording) => format!("read: {} nodes", recording.nodes.len()),
        Err(error) => error.to_string(),
    }
}

/// A small recording as a file.
fn whole() -> Vec<u8> {
    let node = |name: &str| RecordedNode {
        name: name.to_owned(),
        cpu_milli: 8000,
        memory_mib: 4096,
        ..RecordedNode::default()
    };
    let pod = |number: u64| RecordedPod {
        name: format!("default/p{number}"),
        cpu_milli: 100,
        memory_mib: 10,
        arrived_s: number,
        node: Some("a".to_owned()),
        ..RecordedPod::default()
    };
    let mut file = Vec::new();
    let recording = Recording {
        nodes: vec![node("a"), node("b")],
        pods: (0..50).map(pod).collect(),
        ..Recording::default()
    };
    recording.write_to(&mut file).unwrap();
    file
}

#[test]
fn a_bad_line_is_named_by_line_and_column() {
    let line = |line: &str| format!("{HEAD}{NODE}{line}\n");
    let pod = |more: &str| {
        line(&format!("{{\"pod\":{{\"name\":\"p\",\"cpu_milli\":1,\"memory_mib\":1{more}}}}}"))
    };
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let cases = [
        (String::new(), "line 1, column 1: the file ends without the line `end`, it was cut"),
        (
            "{\"berth\":\"recording\",\"version\":3}\n".to_owned(),
            "column 1: the recording's version is 3, 2 is the newest",
        ),
        (
            "{\"berth\":\"recording\",\"version\":0}\n".to_owned(),
            "line 1, column 1: there is no version 0",
        ),
        ("{\"berth\":\"x\",\"version\":1}\n".to_owned(), "line 1, column 1: this is no recording"),
        ("name,cpu\n".to_owned(), "line 1, column 2: "),
        (
            "{\"berth\":\"recording\",\"version\":2,\"by\":1}\n".to_owned(),
            "line 1, column 37: unknown field `by`",
        ),
        (format!("{HEAD}{NODE}"), "line 2, column 1: the file ends without the line `end`"),
        (
            format!("{HEAD}{{\"node\":{{\"name\":\"n\",\"cpu_milli\":-1"),
            "line 2, column 34: the line is not finished",
        ),
        (
            format!("{HEAD}{{\"node\":{{\"name\":\"n\",\"cpu_milli\":\"x\"}}}}\n"),
            "line 2, column 35: invalid type: string",
        ),
        (format!("{HEAD}{{\"nodes\":{{}}}}\n"), "line 2, column 8: unknown variant `nodes`"),
        (line(NODE.trim()), "line 3, column 1: a second node is called `n`"),
        (
            line("{\"node\":{\"name\":\"m\",\"cpu_milli\":99999999999,\"memory_mib\":1}}"),
            "line 3, column 43: invalid value",
        ),
        (
            line("{\"node\":{\"name\":\"m\",\"cpu_milli\":1e400,\"memory_mib\":1}}"),
            "line 3, column 3",
        ),
        (
            line("{\"node\":{\"name\":\"m\",\"cpu_milli\":1}}"),
            "line 3, column 34: missing field `memory_mib`",
        ),
        (pod(",\"node\":\"x\""), "line 3, column 1: no node before it is called `x`"),
        (pod(",\"gpus\":1"), "line 3, column 1: `gpus` and `gpu_milli`"),
        (pod(",\"gpus\":1,\"gpu_milli\":1001"), "line 3, column 1: `gpus` and `gpu_milli`"),
        (pod(",\"arrived_s\":5,\"gone_s\":4"), "line 3, column 1: it was gone at 4 s"),
        (pod(",\"speck\":{}"), "line 3, column 55: unknown field `speck`"),
        (pod(",\"spec\":{\"containers\":7}"), "line 3, column 1: `spec`: invalid type"),
        (pod(&format!(",\"spec\":{deep}")), "recursion limit"),
        (
            line("{\"use\":{\"at_s\":1,\"pod\":\"q\",\"cpu_milli\":1,\"memory_mib\":1}}"),
            "line 3, column 1: no pod is called `q`",
        ),
        (
            line("{\"budget\":{\"name\":\"b\",\"expressions\":[7]}}"),
            "line 3, column 1: `expressions`: invalid type",
        ),
        (
            line("{\"end\":{\"lines\":2,\"sha256\":\"00\"}}"),
            "line 3, column 1: the file was changed or cut",
        ),
    ];
    for (text, wanted) in cases {
        let said = said(&pack(text.as_bytes()));
        assert!(said.contains(wanted), "`{said}` is not `{wanted}` for {text}");
    }
    let mut bad = format!("{HEAD}{NODE}").into_bytes();
    bad[HEAD.len() + 17] = 0xff;
    let said = said(&pack(&bad));
    assert!(said.starts_with("line 2, column ") && said.contains("unicode"), "{said}");
}

#[test]
fn what_is_cut_changed_or_continued_is_refused_wherever_it_is() {
    let file = whole();
    assert_eq!(said(&file), "read: 2 nodes");
    for length in 0..file.len() {
        let said = said(&file[..length]);
        assert!(said.starts_with("line "), "{length}: {said}");
    }
    // The flag for text, the time and the system in a gzip header mean nothing to anybody.
    for at in (0..file.len()).filter(|at| !(3..10).contains(at)) {
        let mut changed = file.clone();
        changed[at] ^= 1;
        let said = said(&changed);
        assert!(!said.starts_with("read"), "byte {at}: {said}");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert!(said(&longer).contains("goes on after the recording's end"));
    longer.pop();
    longer.extend(file);
    assert!(said(&longer).contains("goes on after the recording's end"));
    assert_eq!(said(b"no gzip at all"), "line 1, column 1: this is no gzip stream");
}

#[test]
fn lines_that_tell_of_other_lines_are_refused() {
    let mut text = String::new();
    GzDecoder::new(whole().as_slice()).read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for skipped in 1..lines.len() - 1 {
        let kept = lines.iter().enumerate().filter(|(at, _)| *at != skipped);
        let kept: String = kept.map(|(_, line)| format!("{line}\n")).collect();
        assert!(said(&pack(kept.as_bytes())).starts_with("line "), "without line {skipped}");
    }
    let changed = text.replace("\"cpu_milli\":100,", "\"cpu_milli\":101,");
    assert!(said(&pack(changed.as_bytes())).contains("changed or cut"));
    let more = format!("{text}{{}}\n");
    assert!(said(&pack(more.as_bytes())).contains("nothing may follow the line `end`"));
}

#[test]
fn a_bomb_is_put_out_early() {
    let mut line = GzEncoder::new(Vec::new(), Compression::best());
    line.write_all(HEAD.as_bytes()).unwrap();
    (0..4).for_each(|_| line.write_all(&[b' '; 1 << 20]).unwrap());
    assert!(said(&line.finish().unwrap()).contains("line 2, column 1048576: the line is longer"));

    let mut lines = GzEncoder::new(Vec::new(), Compression::best());
    let pod = "{\"pod\":{\"name\":\"p\",\"cpu_milli\":1,\"memory_mib\":1}}\n";
    lines.write_all(format!("{HEAD}{NODE}{pod}").as_bytes()).unwrap();
    let used =
        "{\"use\":{\"at_s\":1,\"pod\":\"p\",\"cpu_milli\":1,\"memory_mib\":1}}\n".repeat(1000);
    (0..400).for_each(|_| lines.write_all(used.as_bytes()).unwrap());
    let bomb = lines.finish().unwrap();
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let said = said(&bomb);
    assert!(said.contains("unpacks to more than a recording can be"), "{said}");
    let line: usize = said["line ".len()..said.find(',').unwrap()].parse().unwrap();
    assert!(line < 310_000, "it was read on to line {line}");
}

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\n";
const PODS: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,\
                    creation_time,deletion_time,scheduled_time\n";

fn import(nodes: &[u8], pods: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("openb_node_list_gpu_node.csv"), nodes).unwrap();
    std::fs::write(directory.path().join("openb_pod_list_w.csv"), pods).unwrap();
    match openb::import(directory.path(), "w") {
        Ok(recording) => format!("{} {}", recording.nodes.len(), recording.pods.len()),
        Err(error) => error.to_string().rsplit('/').next().unwrap().to_owned(),
    }
}

#[test]
fn a_table_is_read_whole_or_refused_where_it_is_wrong() {
    let row = "a,1,2,1,500,,LS,Running,0,5,0\n";
    let good = [
        format!("{PODS}a,1,2,1,500,G2|T4,LS,Running,0,5,0\n"),
        format!("{PODS}a,1,2,0,0,,LS,Running,0,5,"),
        format!("{PODS}{row}").replace('\n', "\r\n"),
    ];
    for pods in good {
        assert_eq!(import(NODES.as_bytes(), pods.as_bytes()), "1 1", "{pods}");
    }
    let cases = [
        ("a,1,x,1,500,,LS,Running,0,5,0\n", "line 2, column 5: `x` is not a whole number in range"),
        ("a,1,-2,1,500,,LS,Running,0,5,0\n", "line 2, column 5: `-2` is not a whole number"),
        ("a,1,2.5,1,500,,LS,Running,0,5,0\n", "line 2, column 5: `2.5` is not a whole number"),
        ("a,99999999999,2,1,500,,LS,Running,0,5,0\n", "line 2, column 3: `99999999999` is not"),
        ("a,1,2,1,1500,,LS,Running,0,5,0\n", "line 2, column 9: 1 to 1000 thousandths of each"),
        ("a,1,2,1,0,,LS,Running,0,5,0\n", "line 2, column 9: 1 to 1000 thousandths of each"),
        ("a,1,2,1,500,,LS,Running,7,5,0\n", "line 2, column 27: before `creation_time`"),
        (",1,2,1,500,,LS,Running,0,5,0\n", "line 2, column 1: a name is missing"),
        (
            "a,1,2,1,500,,LS,Running,0,5,0\na,1,2,1,500,,LS,Running,0,5,0\n",
            "line 3, column 1: this name was there before",
        ),
        ("a,1,2", "line 2, column 5: 3 values instead of 11"),
        ("a,1,2,1,500,,LS,Running,0,5,0,9\n", "line 2, column 29: 12 values instead of 11"),
        ("a,1,2,1,500,,LS,Running,0,5,0\n\n", "line 3, column 1: 1 values instead of 11"),
    ];
    for (rows, wanted) in cases {
        let said = import(NODES.as_bytes(), format!("{PODS}{rows}").as_bytes());
        let wanted = format!("openb_pod_list_w.csv: {wanted}");
        assert!(said.starts_with(&wanted), "`{said}` is not `{wanted}`");
    }
    let heads = [
        ("", "line 1, column 1: the header should say `name` here"),
        ("name,cpu_milli\n", "line 1, column 16: the header should say `memory_mib` here"),
        (
            &format!("{},more\n", PODS.trim()),
            "line 1, column 111: the header has 1 columns too many",
        ),
    ];
    for (pods, wanted) in heads {
        let said = import(NODES.as_bytes(), pods.as_bytes());
        assert!(said.ends_with(wanted), "`{said}` is not `{wanted}`");
    }
    let said = import(b"sn,cpu_milli,memory,gpu,model\n", PODS.as_bytes());
    assert!(said.ends_with("line 1, column 14: the header should say `memory_mib` here"), "{said}");
    let mut broken = format!("{PODS}{row}").into_bytes();
    broken[PODS.len() + 2] = 0xc3;
    let said = import(NODES.as_bytes(), &broken);
    assert_eq!(said, "openb_pod_list_w.csv: line 2, column 3: this is no UTF-8");
}
