//! What holds for every recording and every policy.

use std::io::Write;

use berth_scheduler::gpu::WHOLE;
use berth_sim::recording::{RecordedNode, RecordedPod, RecordedUse, Recording};
use berth_sim::trace::Trace;
use berth_sim::{PolicyKind, Run};
use proptest::prelude::*;

fn node(number: usize) -> impl Strategy<Value = RecordedNode> {
    (1..64_u32, 1..256_u32, 0..9_u32, 0..3_usize, 0..12_u32).prop_map(
        move |(cores, memory, gpus, model, pods)| RecordedNode {
            name: format!("n{number}"),
            cpu_milli: cores * 1000,
            memory_mib: memory * 1024,
            pods,
            gpus,
            model: ["A", "B", "C"][model].to_owned(),
            ..RecordedNode::default()
        },
    )
}

fn pod(number: usize) -> impl Strategy<Value = RecordedPod> {
    let devices = prop_oneof![
        Just((0, 0)),
        (1..1000_u32).prop_map(|milli| (1, milli)),
        (1..9_u32).prop_map(|gpus| (gpus, 1000)),
        (2..4_u32, 1..1000_u32),
    ];
    let models = prop::sample::subsequence(vec!["A".to_owned(), "B".to_owned()], 0..2);
    (1..40_000_u32, 1..65_536_u32, devices, models, 0..100_u64, prop::option::of(1..50_u64))
        .prop_map(move |(cpu_milli, memory_mib, (gpus, gpu_milli), models, arrived_s, stays)| {
            RecordedPod {
                name: format!("p{number}"),
                cpu_milli,
                memory_mib,
                gpus,
                gpu_milli,
                models,
                arrived_s,
                gone_s: stays.map(|stays| arrived_s + stays),
                ..RecordedPod::default()
            }
        })
}

fn recording() -> impl Strategy<Value = Recording> {
    let nodes = (1..12_usize).prop_flat_map(|count| (0..count).map(node).collect::<Vec<_>>());
    let pods = (0..160_usize).prop_flat_map(|count| (0..count).map(pod).collect::<Vec<_>>());
    (nodes, pods, "[ -~]{0,20}").prop_map(|(nodes, mut pods, source)| {
        pods.sort_by_key(|pod| pod.arrived_s);
        let used = |pod: &RecordedPod| RecordedUse {
            at_s: pod.arrived_s,
            pod: pod.name.clone(),
            cpu_milli: pod.cpu_milli / 2,
            memory_mib: pod.memory_mib,
        };
        let uses = pods.iter().map(used).collect();
        Recording { source, nodes, pods, uses, ..Recording::default() }
    })
}

/// What is on each node at the time of each arrival, counted from the placements alone.
fn overcommitted(trace: &Trace, placements: &[Option<berth_scheduler::gpu::Placed>]) -> bool {
    (0..trace.arrivals.len()).any(|now| {
        let at = trace.arrivals[now].arrived_s;
        let live = || {
            let pairs = trace.arrivals[..=now].iter().zip(placements);
            pairs.filter(move |(arrival, _)| arrival.gone_s.is_none_or(|gone| gone > at))
        };
        trace.shapes.iter().enumerate().any(|(index, shape)| {
            let (mut cpu, mut memory, mut pods, mut devices) = (0, 0, 0, [0; 16]);
            for (arrival, placed) in live() {
                let Some(placed) = placed.filter(|placed| placed.node == index) else { continue };
                let demand = &arrival.demand;
                assert_eq!(placed.devices.count_ones(), u32::from(demand.gpus));
                assert!(demand.takes(shape.kind));
                cpu += demand.cpu_milli;
                memory += demand.memory_mib;
                pods += 1;
                for (device, used) in devices.iter_mut().enumerate() {
                    if placed.devices & (1 << device) != 0 {
                        *used += u32::from(demand.gpu_milli);
                    }
                }
            }
            let full = |(device, used): (usize, &u32)| {
                let has = if device < usize::from(shape.gpus) { u32::from(WHOLE) } else { 0 };
                *used > has
            };
            cpu > shape.cpu_milli
                || memory > shape.memory_mib
                || pods > u32::from(shape.pods)
                || devices.iter().enumerate().any(full)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_node_and_no_device_is_ever_overcommitted(recording in recording(), seed: u64) {
        let trace = Trace::of(&recording).expect("few kinds");
        for policy in PolicyKind::ALL {
            let outcome = Run { policy, seed }.replay(&trace, |_| ());
            prop_assert!(!overcommitted(&trace, &outcome.placements), "{}", policy);
        }
    }

    #[test]
    fn a_pod_is_left_over_only_when_it_fits_nowhere(recording in recording(), seed: u64) {
        let mut trace = Trace::of(&recording).expect("few kinds");
        trace.arrivals.iter_mut().for_each(|arrival| arrival.gone_s = None);
        for policy in PolicyKind::ALL {
            let mut live = policy.start(&trace, trace.cluster(), seed);
            for (index, arrival) in trace.arrivals.iter().enumerate() {
                let fits = live.cluster().nodes().iter().any(|node| node.fits(&arrival.demand));
                prop_assert_eq!(live.place(index, arrival).is_some(), fits, "{}", policy);
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_answer_twice(recording in recording(), seed: u64) {
        let trace = Trace::of(&recording).expect("few kinds");
        for policy in PolicyKind::ALL {
            let run = Run { policy, seed };
            let (once, twice) = (run.replay(&trace, |_| ()), run.replay(&trace, |_| ()));
            prop_assert_eq!(once.placements, twice.placements, "{}", policy);
            prop_assert_eq!(once.figures, twice.figures, "{}", policy);
        }
    }

    #[test]
    fn a_recording_is_read_as_it_was_written(recording in recording()) {
        let mut file = Vec::new();
        recording.write_to(&mut file).expect("memory takes everything");
        prop_assert_eq!(Recording::read_from(file.as_slice()).expect("just written"), recording);
    }

    #[test]
    fn an_anonymised_recording_packs_the_same(recording in recording(), seed: u64) {
        let hidden = recording.clone().anonymised();
        let places = |recording: &Recording| {
            let trace = Trace::of(recording).expect("few kinds");
            let outcome = Run { policy: PolicyKind::Archimedes, seed }.replay(&trace, |_| ());
            outcome.placements
        };
        prop_assert!(hidden.pods.iter().all(|pod| pod.name.starts_with("pod-")));
        prop_assert_eq!(places(&recording), places(&hidden));
    }

    #[test]
    fn a_changed_or_cut_file_is_refused(recording in recording(), at: prop::sample::Index) {
        let mut file = Vec::new();
        recording.write_to(&mut file).expect("memory takes everything");
        let text = {
            let mut text = String::new();
            let mut reader = flate2::read::GzDecoder::new(file.as_slice());
            std::io::Read::read_to_string(&mut reader, &mut text).expect("just written");
            text
        };
        let cut = at.index(text.len());
        let read = |text: &str| {
            let mut packed =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(text.as_bytes()).expect("memory takes everything");
            Recording::read_from(packed.finish().expect("memory takes everything").as_slice())
        };
        prop_assert!(read(&text).is_ok());
        prop_assert!(read(text.get(..cut).unwrap_or_default()).is_err());
        let changed = text.replacen("1000", "1001", 1);
        prop_assert!(changed == text || read(&changed).is_err());
        prop_assert!(Recording::read_from(&file[..file.len() - 1]).is_err());
    }
}
