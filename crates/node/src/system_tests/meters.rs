//! What a busy container and an idle one beside it are told to do.

use std::time::Duration;

use serde_json::Value;

use super::{V5, client::Caller, exec};

const WRITTEN: u64 = 8 << 20;
/// Nanoseconds of a core.
const BUSY: u64 = 100_000_000;

/// Beside an idle container `b`, `a` becomes busy: it shows in `a` alone.
pub(super) async fn check(caller: &Caller) {
    let first = [rested(caller, "a").await, rested(caller, "b").await];
    // Writes 8 MiB, then turns in a circle.
    let script = "B=/bin/busybox;\
                  ($B%20dd%20if=/dev/zero%20of=/blob%20bs=1M%20count=8%20conv=fsync;\
                  while%20:;do%20:;done)%20%3E/dev/null%202%3E%261%20%26%20echo%20$!%20%3E/busy";
    let path = exec("output=1&error=1", &["/bin/busybox", "sh", "-c", script]);
    let said = caller.exec(&path, V5, b"").await;
    assert!(said.status.contains("Success"), "{said:?}");

    let mut busy = container(caller, "a").await;
    for _ in 0..300 {
        if busy["load"]["active"] != 0 && cpu(&busy) > cpu(&first[0]) + BUSY {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        busy = container(caller, "a").await;
    }
    let idle = container(caller, "b").await;
    for over in 0..3 {
        assert!(load(&busy, over) > load(&first[0], over), "{first:?} {busy}");
        assert!(load(&idle, over) <= load(&first[1], over), "{first:?} {idle}");
    }
    assert!(load(&busy, 0) > load(&busy, 1), "{busy}");
    assert_eq!(idle["load"]["active"], 0, "{idle}");
    assert!(cpu(&busy) > cpu(&first[0]) + BUSY, "{first:?} {busy}");
    assert!(cpu(&idle) < cpu(&first[1]) + BUSY / 2, "{first:?} {idle}");
    assert!(written(&busy) >= written(&first[0]) + WRITTEN, "{first:?} {busy}");
    assert_eq!(written(&idle), written(&first[1]), "{idle}");

    let script = "read%20P%20%3C/busy;kill%20-9%20$P";
    let path = exec("output=1&error=1", &["/bin/busybox", "sh", "-c", script]);
    let said = caller.exec(&path, V5, b"").await;
    assert!(said.status.contains("Success"), "{said:?}");
}

/// Once it has started and a look found it at rest.
async fn rested(caller: &Caller, name: &str) -> Value {
    for _ in 0..300 {
        let found = container(caller, name).await;
        if found["load"]["active"] == 0 {
            assert!(found["startTime"].is_string(), "{found}");
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{name} is not at rest within 15 s");
}

/// Over the first, second or third time.
fn load(container: &Value, over: usize) -> f64 {
    container["load"]["averages"][over].as_f64().expect("a load")
}

fn written(container: &Value) -> u64 {
    container["io"]["writtenBytes"].as_u64().expect("bytes")
}

fn cpu(container: &Value) -> u64 {
    container["cpu"]["usageCoreNanoSeconds"].as_u64().expect("nanoseconds")
}

async fn container(caller: &Caller, name: &str) -> Value {
    let (status, text) = caller.get("/stats/summary").await;
    assert_eq!(status, 200, "{text}");
    let summary: Value = serde_json::from_str(&text).expect("a summary");
    let containers = summary["pods"][0]["containers"].as_array().expect("containers");
    let found = containers.iter().find(|container| container["name"] == name);
    found.unwrap_or_else(|| panic!("{name} in {text}")).clone()
}
