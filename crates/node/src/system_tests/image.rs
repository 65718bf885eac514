//! An image made of busybox, for sandboxes and containers alike.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Config;

/// Makes the image and puts it into the test's own containerd.
pub(super) async fn import(config: &Config) {
    let dir = config.data_dir.join("image");
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("bin")).expect("a directory");
    let busybox = crate::tool::find("busybox").expect("Debian package busybox-static");
    std::fs::copy(busybox, root.join("bin/busybox")).expect("copied");
    let layer = dir.join("layer.tar");
    tar(&root, &layer);
    let layout = dir.join("layout");
    let layer = put(&layout, &std::fs::read(&layer).expect("the layer"));
    let description = json!({
        "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", _ => "arm64" },
        "os": "linux",
        "config": { "Entrypoint": ["/bin/busybox", "sleep", "100000"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let mut description = put(&layout, description.to_string().as_bytes());
    description["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let mut layer = layer;
    layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": description,
        "layers": [layer],
    });
    let mut manifest = put(&layout, manifest.to_string().as_bytes());
    manifest["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] = json!({ "io.containerd.image.name": config.sandbox_image });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(layout.join("index.json"), index.to_string()).expect("written");
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    std::fs::write(layout.join("oci-layout"), version.to_string()).expect("written");
    let image = dir.join("image.tar");
    tar(&layout, &image);
    let (socket, image) = (config.containerd_socket(), image.to_string_lossy().into_owned());
    let socket = socket.to_string_lossy().into_owned();
    let words = ["-a", &socket, "-n", "k8s.io", "images", "import", &image];
    crate::tool::run("ctr", &words).await.expect("imported");
}

fn tar(dir: &Path, file: &Path) {
    let done = Command::new("tar").arg("-cf").arg(file).arg("-C").arg(dir).arg(".").status();
    assert!(done.expect("tar").success());
}

/// Stores a blob and gives its descriptor without a media type.
fn put(layout: &Path, content: &[u8]) -> Value {
    let digest: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a directory");
    std::fs::write(blobs.join(&digest), content).expect("written");
    json!({ "digest": format!("sha256:{digest}"), "size": content.len() })
}
