//! Shares of devices, from the pod's words to the index that is written on it.

use berth_controllers::scheduler::why;

use super::*;

const MILLI: &str = "berth.dev/gpu-milli";
const INDEX: &str = "berth.dev/gpu-index";

impl Ground {
    /// A node with devices of a model.
    async fn gpu_node(&self, name: &str, gpus: usize, model: &str) {
        self.node(name, "32").await;
        let nodes: Api<Node> = Api::all(self.client.clone());
        let params = PatchParams::default();
        let label = json!({ "metadata": { "labels": { "nvidia.com/gpu.product": model } } });
        nodes.patch(name, &params, &Patch::Merge(label)).await.unwrap();
        let room = json!({ "nvidia.com/gpu": gpus.to_string() });
        let status = json!({ "status": { "capacity": room, "allocatable": room } });
        nodes.patch_status(name, &params, &Patch::Merge(status)).await.unwrap();
    }

    async fn share(&self, name: &str, annotations: Value) {
        self.pod(name, "1", json!({ "metadata": { "annotations": annotations } })).await;
    }

    async fn whole(&self, name: &str, count: usize) {
        let asked = json!({ "nvidia.com/gpu": count.to_string() });
        let resources = json!({ "requests": asked, "limits": asked });
        let containers = json!([{ "name": "c", "image": "web:1", "resources": resources }]);
        self.pod(name, "1", json!({ "spec": { "containers": containers } })).await;
    }

    /// Thousandths that the pods' own words give out of each device.
    async fn given_out(&self) -> BTreeMap<(String, usize), u32> {
        let mut sums = BTreeMap::new();
        for pod in self.pods().list(&ListParams::default()).await.unwrap() {
            let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
                continue;
            };
            let annotation = |key: &str| pod.annotations().get(key).cloned();
            let milli = annotation(MILLI).map_or(1000, |text| text.parse::<u32>().unwrap());
            let index = annotation(INDEX).unwrap_or_else(|| panic!("{} has none", pod.name_any()));
            for device in index.split(',') {
                *sums.entry((node.clone(), device.parse().unwrap())).or_default() += milli;
            }
        }
        sums
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_and_whole_devices_fit_each_other_across_a_restart() {
    let ground = Ground::start().await;
    ground.gpu_node("g0", 2, "T4").await;
    ground.gpu_node("g1", 2, "T4").await;
    ground.node("plain", "64").await;
    let first = ground.scheduler(Config::default());
    // Half a device five times, in an order that invites opening a new one, and one whole.
    for at in 0..5 {
        ground.share(&format!("half{at}"), json!({ MILLI: "500" })).await;
    }
    eventually!("the halves are bound", ground.bound().await == 5);
    ground.whole("whole", 1).await;
    eventually!("a device was left whole", ground.bound().await == 6);
    let sums = ground.given_out().await;
    assert_eq!(sums.values().sum::<u32>(), 3500, "{sums:?}");
    assert!(sums.values().all(|sum| *sum <= 1000), "{sums:?}");
    ground.whole("second", 1).await;
    let text = async || {
        let found = why(&ground.client, &Config::default(), "default", "second").await.unwrap();
        let found = found.unwrap();
        (found.message.unwrap_or_default(), found.notes)
    };
    let (message, notes) = text().await;
    assert!(message.contains("2 node(s) had only 0 devices that nobody shares"), "{message}");
    assert!(notes.iter().any(|note| note.contains("of each device of g")), "{notes:?}");
    first.stop(Duration::from_secs(1)).await;

    let second = ground.scheduler(Config::default());
    // There is one half left, and one of these two finds it.
    ground.share("sixth", json!({ MILLI: "500" })).await;
    ground.share("seventh", json!({ MILLI: "1" })).await;
    eventually!("the last half is given", {
        let placed = ground.placed().await;
        placed["sixth"].is_some() != placed["seventh"].is_some()
    });
    let sums = ground.given_out().await;
    assert_eq!(sums.len(), 4, "{sums:?}");
    assert!(sums.values().all(|sum| *sum <= 1000), "{sums:?}");
    // What a whole one leaves is free for those that wait.
    ground.pods().delete("whole", &DeleteParams::default()).await.unwrap();
    eventually!("all but one are bound", {
        let placed = ground.placed().await;
        placed.values().filter(|node| node.is_none()).count() <= 1
    });
    let sums = ground.given_out().await;
    assert!(sums.values().all(|sum| *sum <= 1000), "{sums:?}");
    ground.end([second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_and_several_devices_are_asked_for_by_annotation() {
    let ground = Ground::start().await;
    ground.gpu_node("old", 4, "T4").await;
    ground.gpu_node("new", 4, "H100").await;
    let scheduler = ground.scheduler(Config::default());
    let asks = json!({ MILLI: "400", "berth.dev/gpu-count": "3", "berth.dev/gpu-models": "H100",
        // Nobody chooses his own.
        INDEX: "7" });
    ground.share("p", asks).await;
    eventually!("it is bound", ground.bound().await == 1);
    assert_eq!(ground.placed().await["p"].as_deref(), Some("new"));
    let sums = ground.given_out().await;
    assert_eq!(sums.values().copied().collect::<Vec<_>>(), [400, 400, 400], "{sums:?}");
    assert!(sums.keys().all(|(_, device)| *device < 4), "{sums:?}");
    ground.share("wrong", json!({ MILLI: "1001" })).await;
    let found = why(&ground.client, &Config::default(), "default", "wrong").await.unwrap().unwrap();
    let message = found.message.unwrap_or_default();
    assert!(message.contains("berth.dev/gpu-milli is not within 1 to 1000"), "{message}");
    ground.end([scheduler]).await;
}
