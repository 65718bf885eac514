//! The registry as clients see it, by the clauses of the OCI distribution spec 1.1.

#[path = "ground/registry.rs"]
mod ground;

use std::time::{Duration, SystemTime};

use berth_images::manifest::{INDEX, MANIFEST};
use berth_images::reference::Digest;
use berth_images::registry::{Collected, Policy, collect, images};
use http::{Method, StatusCode};
use serde_json::json;

use ground::{Answer, Ground};

fn digest(content: &[u8]) -> String {
    Digest::of(content).to_string()
}

async fn push_blob(ground: &Ground, name: &str, content: &[u8]) -> String {
    let digest = digest(content);
    let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
    let answer = ground.send(Method::POST, &path, &[], content.to_vec()).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    digest
}

async fn put_manifest(
    ground: &Ground,
    name: &str,
    reference: &str,
    manifest: &serde_json::Value,
) -> Answer {
    let path = format!("/v2/{name}/manifests/{reference}");
    let media_type = manifest["mediaType"].as_str().unwrap_or(MANIFEST).to_owned();
    let headers = [("content-type", media_type.as_str())];
    ground.send(Method::PUT, &path, &headers, manifest.to_string()).await
}

/// An image of one small layer; its manifest.
async fn image(ground: &Ground, name: &str, content: &str) -> serde_json::Value {
    let layer = push_blob(ground, name, content.as_bytes()).await;
    let config = push_blob(ground, name, b"{}").await;
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config,
                    "size": 2 },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer,
                     "size": content.len() }],
    })
}

async fn start_upload(ground: &Ground, name: &str) -> String {
    let answer = ground.send(Method::POST, &format!("/v2/{name}/blobs/uploads/"), &[], "").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    answer.header("location").to_owned()
}

#[tokio::test]
async fn it_says_which_api_it_speaks() {
    let ground = Ground::new().await;
    let answer = ground.get("/v2/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    assert_eq!(ground.get("/").await.status, StatusCode::NOT_FOUND);
    let posted = ground.send(Method::POST, "/v2/", &[], "").await;
    assert_eq!(
        (posted.status, posted.code().as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED")
    );
}

#[tokio::test]
async fn blob_goes_in_at_once_and_comes_out_whole_or_in_part() {
    let ground = Ground::new().await;
    let digest = push_blob(&ground, "a/b", b"0123456789").await;
    let path = format!("/v2/a/b/blobs/{digest}");
    let whole = ground.get(&path).await;
    assert_eq!((whole.status, &whole.body[..]), (StatusCode::OK, &b"0123456789"[..]));
    assert_eq!(whole.header("docker-content-digest"), digest);
    let head = ground.send(Method::HEAD, &path, &[], "").await;
    assert_eq!((head.status, head.header("content-length")), (StatusCode::OK, "10"));
    assert!(head.body.is_empty());
    let part = ground.send(Method::GET, &path, &[("range", "bytes=2-4")], "").await;
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &b"234"[..]));
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    let beyond = ground.send(Method::GET, &path, &[("range", "bytes=10-")], "").await;
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.header("content-range"), "bytes */10");
    let elsewhere = ground.get(&format!("/v2/a/c/blobs/{digest}")).await;
    assert_eq!(
        (elsewhere.status, elsewhere.code().as_str()),
        (StatusCode::NOT_FOUND, "BLOB_UNKNOWN")
    );
}

#[tokio::test]
async fn blob_goes_in_by_post_and_put() {
    let ground = Ground::new().await;
    let location = start_upload(&ground, "a").await;
    let wanted = digest(b"hello");
    let put = ground.send(Method::PUT, &format!("{location}?digest={wanted}"), &[], "hello").await;
    assert_eq!(put.status, StatusCode::CREATED);
    assert_eq!(put.header("location"), format!("/v2/a/blobs/{wanted}"));
    assert_eq!(&ground.get(put.header("location")).await.body[..], b"hello");
    assert_eq!(ground.get(&location).await.status, StatusCode::NOT_FOUND, "the upload is over");
}

#[tokio::test]
async fn chunks_must_come_in_order() {
    let ground = Ground::new().await;
    let location = start_upload(&ground, "a").await;
    let patch = |range: &'static str, body: &'static str| {
        let (ground, location) = (&ground, &location);
        async move { ground.send(Method::PATCH, location, &[("content-range", range)], body).await }
    };
    let first = patch("0-4", "hello").await;
    assert_eq!((first.status, first.header("range")), (StatusCode::ACCEPTED, "0-4"));
    let again = patch("0-4", "hello").await;
    assert_eq!((again.status, again.header("range")), (StatusCode::RANGE_NOT_SATISFIABLE, "0-4"));
    let gap = patch("6-10", "world").await;
    assert_eq!(gap.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let short = patch("5-20", "short").await;
    assert_eq!(
        (short.status, short.code().as_str()),
        (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID")
    );
    let status = ground.get(&location).await;
    assert_eq!((status.status, status.header("range")), (StatusCode::NO_CONTENT, "0-4"));
    assert_eq!(patch("5-9", "world").await.status, StatusCode::ACCEPTED);
    let wanted = digest(b"helloworld!");
    let put = ground
        .send(
            Method::PUT,
            &format!("{location}?digest={wanted}"),
            &[("content-range", "10-10")],
            "!",
        )
        .await;
    assert_eq!(put.status, StatusCode::CREATED);
    let blob = ground.get(&format!("/v2/a/blobs/{wanted}")).await;
    assert_eq!(&blob.body[..], b"helloworld!");
}

#[tokio::test]
async fn content_that_is_not_what_was_said_is_refused() {
    let ground = Ground::new().await;
    let location = start_upload(&ground, "a").await;
    let other = digest(b"other");
    let put = ground.send(Method::PUT, &format!("{location}?digest={other}"), &[], "hello").await;
    assert_eq!((put.status, put.code().as_str()), (StatusCode::BAD_REQUEST, "DIGEST_INVALID"));
    assert_eq!(ground.get(&format!("/v2/a/blobs/{other}")).await.status, StatusCode::NOT_FOUND);
    let uploads = std::fs::read_dir(ground.dir.path().join("uploads")).expect("it lists");
    assert_eq!(uploads.count(), 0, "nothing stays behind");
}

#[tokio::test]
async fn upload_can_be_cancelled_and_does_not_survive_a_restart() {
    let mut ground = Ground::new().await;
    let location = start_upload(&ground, "a").await;
    let other = location.replace("/v2/a/", "/v2/b/");
    assert_eq!(ground.get(&other).await.status, StatusCode::NOT_FOUND, "it belongs to a");
    let cancelled = ground.send(Method::DELETE, &location, &[], "").await;
    assert_eq!(cancelled.status, StatusCode::NO_CONTENT);
    let gone = ground.get(&location).await;
    assert_eq!((gone.status, gone.code().as_str()), (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"));
    let location = start_upload(&ground, "a").await;
    let kept = push_blob(&ground, "a", b"kept").await;
    ground.restart().await;
    assert_eq!(ground.get(&location).await.status, StatusCode::NOT_FOUND);
    assert_eq!(ground.get(&format!("/v2/a/blobs/{kept}")).await.status, StatusCode::OK);
    let uploads = std::fs::read_dir(ground.dir.path().join("uploads")).expect("it lists");
    assert_eq!(uploads.count(), 0);
}

#[tokio::test]
async fn blob_is_mounted_from_another_repository() {
    let ground = Ground::new().await;
    let digest = push_blob(&ground, "a", b"shared").await;
    let mount = |query: String| {
        let ground = &ground;
        async move {
            let path = format!("/v2/b/c/blobs/uploads/?{query}");
            ground.send(Method::POST, &path, &[], "").await.status
        }
    };
    assert_eq!(mount(format!("mount={digest}&from=nowhere")).await, StatusCode::ACCEPTED);
    assert_eq!(mount(format!("mount={digest}&from=a")).await, StatusCode::CREATED);
    assert_eq!(ground.get(&format!("/v2/b/c/blobs/{digest}")).await.status, StatusCode::OK);
    let unknown = Digest::of(b"unknown");
    assert_eq!(mount(format!("mount={unknown}")).await, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn deleted_blob_is_gone_from_its_repository_only() {
    let ground = Ground::new().await;
    let digest = push_blob(&ground, "a", b"shared").await;
    push_blob(&ground, "b", b"shared").await;
    let path = format!("/v2/a/blobs/{digest}");
    assert_eq!(ground.send(Method::DELETE, &path, &[], "").await.status, StatusCode::ACCEPTED);
    assert_eq!(ground.send(Method::DELETE, &path, &[], "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(ground.get(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(ground.get(&format!("/v2/b/blobs/{digest}")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn manifest_is_found_by_tag_and_by_digest() {
    let ground = Ground::new().await;
    let manifest = image(&ground, "a/b", "layer").await;
    let wanted = digest(manifest.to_string().as_bytes());
    let put = put_manifest(&ground, "a/b", "v1", &manifest).await;
    assert_eq!(put.status, StatusCode::CREATED);
    assert_eq!(put.header("docker-content-digest"), wanted);
    for reference in ["v1", wanted.as_str()] {
        let got = ground.get(&format!("/v2/a/b/manifests/{reference}")).await;
        assert_eq!((got.status, got.header("content-type")), (StatusCode::OK, MANIFEST));
        assert_eq!(got.header("docker-content-digest"), wanted);
        assert_eq!(got.json(), manifest);
        let path = format!("/v2/a/b/manifests/{reference}");
        let head = ground.send(Method::HEAD, &path, &[], "").await;
        assert_eq!(head.header("content-length"), manifest.to_string().len().to_string());
    }
    let by_tag = ground.send(Method::DELETE, "/v2/a/b/manifests/v1", &[], "").await;
    assert_eq!(by_tag.status, StatusCode::ACCEPTED);
    let gone = ground.get("/v2/a/b/manifests/v1").await;
    assert_eq!((gone.status, gone.code().as_str()), (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"));
    put_manifest(&ground, "a/b", "v2", &manifest).await;
    let path = format!("/v2/a/b/manifests/{wanted}");
    assert_eq!(ground.get(&path).await.status, StatusCode::OK, "a tag goes alone");
    assert_eq!(ground.send(Method::DELETE, &path, &[], "").await.status, StatusCode::ACCEPTED);
    assert_eq!(ground.get("/v2/a/b/manifests/v2").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bad_manifests_are_refused() {
    let ground = Ground::new().await;
    let good = image(&ground, "a", "layer").await;
    let with = |key: &str, value: serde_json::Value| {
        let mut manifest = good.clone();
        manifest[key] = value;
        manifest
    };
    let absent = json!({ "mediaType": "x", "digest": digest(b"absent"), "size": 6 });
    for (manifest, status, code) in [
        (json!([]), StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        (with("schemaVersion", json!(1)), StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        (with("layers", json!([absent])), StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
        (with("manifests", json!([absent])), StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
        (
            with("annotations", json!({ "a": "x".repeat(4 << 20) })),
            StatusCode::PAYLOAD_TOO_LARGE,
            "SIZE_INVALID",
        ),
    ] {
        let put = put_manifest(&ground, "a", "v1", &manifest).await;
        assert_eq!((put.status, put.code().as_str()), (status, code));
    }
    let headers = [("content-type", INDEX)];
    let path = "/v2/a/manifests/v1";
    let differs = ground.send(Method::PUT, path, &headers, good.to_string()).await;
    assert_eq!(differs.code(), "MANIFEST_INVALID");
    let other = put_manifest(&ground, "a", &digest(b"other"), &good).await;
    assert_eq!(other.code(), "DIGEST_INVALID");
    assert_eq!(ground.get(path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn names_tags_and_digests_stay_inside_the_directory() {
    let ground = Ground::new().await;
    let digest = digest(b"x");
    for (path, code) in [
        (format!("/v2/../blobs/{digest}"), "NAME_INVALID"),
        (format!("/v2/a/%2e%2e/blobs/{digest}"), "NAME_INVALID"),
        (format!("/v2/A/blobs/{digest}"), "NAME_INVALID"),
        (format!("/v2/_blobs/blobs/{digest}"), "NAME_INVALID"),
        ("/v2/a/blobs/sha256:..%2f..%2fx".to_owned(), "DIGEST_INVALID"),
        ("/v2/a/blobs/sha512:00".to_owned(), "DIGEST_INVALID"),
        ("/v2/a/manifests/..".to_owned(), "MANIFEST_INVALID"),
        ("/v2/a/manifests/.hidden".to_owned(), "MANIFEST_INVALID"),
        ("/v2/a/manifests/sha256:x".to_owned(), "DIGEST_INVALID"),
    ] {
        let answer = ground.get(&path).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::BAD_REQUEST, code),
            "{path}"
        );
    }
}

#[tokio::test]
async fn tags_come_in_pages() {
    let ground = Ground::new().await;
    let unknown = ground.get("/v2/a/tags/list").await;
    assert_eq!((unknown.status, unknown.code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"));
    let manifest = image(&ground, "a", "layer").await;
    for tag in ["c", "a", "b"] {
        put_manifest(&ground, "a", tag, &manifest).await;
    }
    let all = ground.get("/v2/a/tags/list").await;
    assert_eq!(all.json(), json!({ "name": "a", "tags": ["a", "b", "c"] }));
    let first = ground.get("/v2/a/tags/list?n=2").await;
    assert_eq!(first.json()["tags"], json!(["a", "b"]));
    assert_eq!(first.header("link"), "</v2/a/tags/list?n=2&last=b>; rel=\"next\"");
    let second = ground.get("/v2/a/tags/list?n=2&last=b").await;
    assert_eq!(second.json()["tags"], json!(["c"]));
    assert_eq!(second.header("link"), "");
    assert_eq!(ground.get("/v2/a/tags/list?n=0").await.json()["tags"], json!([]));
}

#[tokio::test]
async fn referrers_are_listed_by_their_subject() {
    let ground = Ground::new().await;
    let subject = image(&ground, "a", "subject").await;
    let size = subject.to_string().len();
    let of = digest(subject.to_string().as_bytes());
    let descriptor = json!({ "mediaType": MANIFEST, "digest": of, "size": size });
    let mut artifacts = Vec::new();
    for kind in ["application/sbom", "application/signature"] {
        let mut artifact = image(&ground, "a", "{}").await;
        artifact["artifactType"] = json!(kind);
        artifact["subject"] = descriptor.clone();
        artifact["annotations"] = json!({ "made-by": "a test" });
        // The subject need not be there yet.
        let reference = digest(artifact.to_string().as_bytes());
        let put = put_manifest(&ground, "a", &reference, &artifact).await;
        assert_eq!((put.status, put.header("oci-subject")), (StatusCode::CREATED, of.as_str()));
        artifacts.push(reference);
    }
    let path = format!("/v2/a/referrers/{of}");
    let all = ground.get(&path).await;
    assert_eq!((all.status, all.header("content-type")), (StatusCode::OK, INDEX));
    assert_eq!(all.json()["manifests"].as_array().map(Vec::len), Some(2));
    let filtered = ground.get(&format!("{path}?artifactType=application/sbom")).await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let found = filtered.json();
    assert_eq!(found["manifests"].as_array().map(Vec::len), Some(1));
    assert_eq!(found["manifests"][0]["digest"], artifacts[0].as_str());
    assert_eq!(found["manifests"][0]["annotations"]["made-by"], "a test");
    for artifact in artifacts {
        let path = format!("/v2/a/manifests/{artifact}");
        ground.send(Method::DELETE, &path, &[], "").await;
    }
    assert_eq!(ground.get(&path).await.json()["manifests"], json!([]));
    let none = ground.get(&format!("/v2/nowhere/referrers/{of}")).await;
    assert_eq!((none.status, none.json()["manifests"].clone()), (StatusCode::OK, json!([])));
}

#[tokio::test]
async fn clean_up_takes_what_nothing_refers_to_and_nothing_recent() {
    let ground = Ground::new().await;
    let dir = ground.dir.path();
    let manifest = image(&ground, "a", "kept").await;
    put_manifest(&ground, "a", "v1", &manifest).await;
    let untagged = image(&ground, "a", "untagged").await;
    let reference = digest(untagged.to_string().as_bytes());
    put_manifest(&ground, "a", &reference, &untagged).await;
    let lost = push_blob(&ground, "b/c", b"lost").await;

    let now = SystemTime::now();
    let later = now + Duration::from_secs(7200);
    assert_eq!(collect(dir, Policy::default(), now).expect("it works"), Collected::default());
    let first = collect(dir, Policy::default(), later).expect("it works");
    assert_eq!(first, Collected { manifests: 0, blobs: 1, bytes: 4 });
    assert_eq!(ground.get(&format!("/v2/b/c/blobs/{lost}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(images(dir).expect("it lists").len(), 2);

    let policy = Policy { keep_untagged: false, ..Policy::default() };
    let second = collect(dir, policy, later).expect("it works");
    assert_eq!((second.manifests, second.blobs), (1, 2), "the manifest and its layer");
    let left = images(dir).expect("it lists");
    let size = (manifest.to_string().len() + "kept".len() + "{}".len()) as u64;
    assert_eq!((left.len(), left[0].name.as_str(), left[0].tag.as_str()), (1, "a", "v1"));
    assert_eq!((left[0].size, &left[0].digest), (size, &digest(manifest.to_string().as_bytes())));
    for part in ["kept".as_bytes(), b"{}"] {
        let path = format!("/v2/a/blobs/{}", digest(part));
        assert_eq!(ground.get(&path).await.status, StatusCode::OK);
    }
}
