//! Releases under load on a Kubernetes that is not ours, which `berth install` brought Berth to: no
//! strategy and no abort loses a request or makes more pods than it may, with real kubelets.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use berth_tests::apps::Ground;
use berth_tests::{Image, Place, Real, root, strategies};
use serde_json::json;

/// Versions of the example: two that answer, and one that fails 40 per cent.
const VERSIONS: [(&str, &str); 3] = [("one", "0"), ("two", "0"), ("bad", "40")];

#[test]
fn no_strategy_and_no_abort_loses_a_request_on_kubernetes() -> Result<()> {
    let Some(mut real) = Real::start()? else {
        eprintln!("skipped: a real Kubernetes with a node (KUBEBUILDER_ASSETS)");
        return Ok(());
    };
    let images = bring_images(&real)?;
    real.install()?;
    let [one, two, failing] = images;
    let scaled = json!({ "scale": { "min": 3, "max": 6 } });
    let named = json!({ "stateful": true });
    let mut svc = Ground::on(&real, [one, two], failing)?;
    // Autoscalers all the while; nothing measures what they scale by here, but their bounds hold.
    (svc.replicas, svc.more) = (3, scaled.clone());
    // What one App does one after the other, two do at once. Names are given anew one by one, and
    // a kubelet takes some ten seconds to let go of one: two of them are enough.
    let blue = svc.beside("blue", 3, scaled)?;
    let state = svc.beside("state", 2, named.clone())?;
    let blue_state = svc.beside("blue-state", 2, named)?;
    std::thread::scope(|scope| {
        let others = [
            scope.spawn(|| one_by_one(&state)),
            scope.spawn(|| two_sets(&blue)),
            scope.spawn(|| two_sets(&blue_state)),
        ];
        let ours = one_by_one(&svc)
            .and_then(|()| containers_are_told_their_size(&svc))
            .and_then(|()| strategies::a_canary_that_fails_comes_back_by_itself(&svc, 0));
        let others = others.map(|other| other.join().unwrap_or_else(|_| bail!("it panicked")));
        let faults = [("svc", ours)]
            .into_iter()
            .chain(["state", "blue", "blue-state"].into_iter().zip(others));
        let faults: Vec<String> =
            faults.filter_map(|(app, ended)| Some(format!("{app}: {:#}", ended.err()?))).collect();
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    })
}

fn one_by_one<P: Place>(ground: &Ground<P>) -> Result<()> {
    strategies::first(ground, 0)?;
    strategies::rolling(ground, 0)?;
    strategies::canary(ground, 1)
}

fn two_sets<P: Place>(ground: &Ground<P>) -> Result<()> {
    strategies::first(ground, 0)?;
    strategies::blue_green(ground, 0)?;
    strategies::in_place(ground, 1)
}

/// The kubelet hands it on as Berth's own node does.
fn containers_are_told_their_size<P: Place>(ground: &Ground<P>) -> Result<()> {
    let told = ground.cluster.kubectl(&["exec", "deployment/svc", "--", "busybox", "env"])?.out;
    assert!(told.contains("GOMEMLIMIT=120795930\n"), "90 % of 128 MiB: {told}");
    Ok(())
}

fn bring_images(real: &Real) -> Result<[String; 3]> {
    let example = root().join("examples/hello");
    let built = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--target-dir", "target"])
        .current_dir(&example)
        .status()
        .context("running cargo")?;
    ensure!(built.success(), "the example is not built");
    let program = example.join("target/release/hello");
    let files = [(program.as_path(), "bin/hello"), (Path::new("/bin/busybox"), "bin/busybox")];
    let mut names = Vec::new();
    for (word, fails) in VERSIONS {
        let name = format!("test.local/hello:{word}");
        let (greeting, fails) = (format!("GREETING={word}"), format!("FAILS={fails}"));
        let env = [greeting.as_str(), fails.as_str(), "PATH=/bin"];
        real.bring_image(&Image {
            name: &name,
            files: &files,
            entrypoint: &["/bin/hello"],
            env: &env,
        })?;
        names.push(name);
    }
    names.try_into().map_err(|_| anyhow::anyhow!("three images"))
}
