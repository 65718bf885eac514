//! Releases under load: no strategy and no abort loses a request, with real containers.

use anyhow::{Context, Result};
use berth_tests::apps::{Ground, HOST, PATIENCE};
use berth_tests::{can_run_clusters, strategies, until};
use serde_json::json;

#[test]
fn no_strategy_and_no_abort_loses_a_request() -> Result<()> {
    if !can_run_clusters("releases under load") {
        return Ok(());
    }
    let ground = Ground::start()?;
    strategies::first(&ground, 0)?;
    strategies::rolling(&ground, 0)?;
    strategies::blue_green(&ground, 1)?;
    strategies::canary(&ground, 0)?;
    strategies::a_canary_that_fails_comes_back_by_itself(&ground, 1)?;
    strategies::in_place(&ground, 1)?;
    // Its instances have names, and no disks.
    let state = ground.beside("state", 3, json!({ "stateful": true }))?;
    strategies::first(&state, 0)?;
    strategies::blue_green(&state, 0)?;
    ground.cluster.berth(&["app", "delete", "state"])?;
    an_address_that_stays(&ground)?;
    a_freeze_holds_and_a_rollback_passes(&ground)
}

fn an_address_that_stays(ground: &Ground) -> Result<()> {
    let addresses = |app: &str| -> Result<Vec<String>> {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
        let named = format!("app.kubernetes.io/instance={app}");
        let said = ground.cluster.kubectl(&["get", "pods", "-l", &named, "-o", path])?;
        Ok(said.out.lines().map(str::to_owned).collect())
    };
    let sorted = || -> Result<Vec<String>> {
        let all = addresses("svc")?;
        let mut all: Vec<String> =
            all.iter().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect();
        all.sort();
        Ok(all)
    };
    let way = json!({ "type": "keepAddress" });
    let before = sorted()?;
    assert_eq!(before.len(), 4);
    for image in [1, 0] {
        let revision = ground.release()?["spec"]["revision"].as_i64().context("a revision")?;
        ground.loses_nothing("keep the address", || {
            ground.apply(image, &way)?;
            ground.comes_to("Succeeded", revision + 1)?;
            Ok(())
        })?;
        assert_eq!(sorted()?, before, "other pods under the same addresses");
    }
    assert_eq!(ground.answers(HOST, 8)?, [8, 0]);
    let next = ground.release()?["spec"]["revision"].as_i64().context("a revision")? + 1;
    ground.loses_nothing("keep the address, aborted", || ground.abort_half_way(1, &way, next))?;
    // Those that had come when it was aborted may go back to other addresses.
    assert_eq!(sorted()?.len(), before.len());
    assert_eq!(ground.answers(HOST, 8)?, [8, 0]);
    ground.apply(0, &way)?;

    // Where instances have names, each name keeps its own.
    let named = |image: usize| {
        let image = &ground.images[image];
        ground.cluster.apply(&format!(
            "apiVersion: berth.dev/v1\nkind: App\nmetadata: {{name: named}}\nspec: {{image: \
             \"{image}\", replicas: 3, port: 8080, stateful: true, strategy: {{type: \
             keepAddress}}, resources: {{limits: {{cpu: 200m, memory: 64Mi}}}}}}\n"
        ))
    };
    let comes = |image: usize| -> Result<()> {
        let wanted = &ground.images[image];
        until("the named are there", PATIENCE, || {
            let path = "{.status.updatedReplicas} {.status.readyReplicas} {.spec.image}";
            let is = ground.cluster.field("app/named", path).unwrap_or_default();
            let images = "jsonpath={.items[*].spec.containers[0].image}";
            let select = "app.kubernetes.io/instance=named";
            let running = ground.cluster.kubectl(&["get", "pods", "-l", select, "-o", images]);
            is.starts_with("3 3 ")
                && running
                    .is_ok_and(|ran| ran.out.split(' ').filter(|one| one == wanted).count() == 3)
        })?;
        Ok(())
    };
    named(0)?;
    comes(0)?;
    let before = addresses("named")?;
    named(1)?;
    comes(1)?;
    assert_eq!(addresses("named")?, before, "the same names under the same addresses");
    ground.cluster.berth(&["app", "delete", "named"])?;
    Ok(())
}

fn a_freeze_holds_and_a_rollback_passes(ground: &Ground) -> Result<()> {
    let annotate = |value: &str| {
        let note = format!("berth.dev/freeze={value}");
        ground.cluster.kubectl(&["annotate", "app", "svc", "--overwrite", &note])
    };
    annotate("always promotion day")?;
    ground.apply(1, &json!({ "type": "rolling" }))?;
    let revision = ground.comes_to("Waiting", 10)?;
    until("it says why", PATIENCE, || {
        ground
            .release()
            .is_ok_and(|release| release["status"]["message"] == "frozen: the App: promotion day")
    })?;
    annotate("2020-01-01T00:00:00Z/2020-01-02T00:00:00Z")?;
    ground.comes_to("Succeeded", revision)?;
    annotate("always promotion day")?;
    ground.cluster.berth(&["release", "rollback", "svc"])?;
    ground.comes_to("Succeeded", revision + 1)?;
    assert_eq!(ground.answers(HOST, 8)?, [8, 0], "a freeze does not hold up the way back");
    Ok(())
}
