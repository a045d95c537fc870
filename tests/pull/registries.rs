//! OCI registries, with and without tokens, and Ollama's.

use super::server::{Content, Reply, Request, Server};
use super::{Models, assert_holds, fail, succeed};
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The one model of all registries here.
fn content() -> &'static Content {
    static CONTENT: OnceLock<Content> = OnceLock::new();
    CONTENT.get_or_init(|| Content::new(40 << 20, 9))
}

fn layer(kind: &str, content: &Content, title: Option<&str>) -> Value {
    let mut layer = json!({"mediaType": kind, "digest": format!("sha256:{}", content.sha256()), "size": content.bytes});
    if let Some(title) = title {
        layer["annotations"] = json!({"org.opencontainers.image.title": title});
    }
    layer
}

fn manifest(layers: &[Value]) -> String {
    let config = json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:0", "size": 2});
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers})
        .to_string()
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a registry answers to one that is let in: the model at several tags of me/model, in several shapes.
fn answer(request: &Request) -> Reply {
    let single = manifest(&[layer("application/octet-stream", content(), Some("fine-Q4_0.gguf"))]);
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", sha256(&single)), "size": 1}
    ]});
    let path = request.path.strip_prefix("/v2/me/model/").unwrap_or_default();
    match path {
        "manifests/v1" => Reply::text(200, single),
        "manifests/index" => Reply::text(200, index.to_string()),
        "manifests/docker" => {
            let license = layer("application/vnd.docker.ai.license", &Content::new(5, 1), None);
            Reply::text(200, manifest(&[license, layer("application/vnd.docker.ai.gguf.v3", content(), None)]))
        }
        "manifests/image" => {
            Reply::text(200, manifest(&[layer("application/vnd.oci.image.layer.v1.tar+gzip", content(), None)]))
        }
        "manifests/garbage" => Reply::text(200, "garbage"),
        "manifests/escape" => {
            let title = Some("../../../.bashrc.gguf");
            Reply::text(200, manifest(&[layer("application/octet-stream", content(), title)]))
        }
        "tags/list" => Reply::text(200, json!({"name": "me/model", "tags": ["v1", "docker"]}).to_string()),
        _ if path == format!("manifests/sha256:{}", sha256(&single)) => Reply::text(200, single),
        // Another manifest than the digest says.
        _ if path.starts_with("manifests/sha256:") => Reply::text(200, single),
        _ if path == format!("blobs/sha256:{}", content().sha256()) => Reply::file(request, content()),
        _ => Reply::text(404, ""),
    }
}

/// A registry that wants tokens, of which each opens it three times only.
fn registry() -> Server {
    let issued = AtomicU64::new(0);
    let used = AtomicU64::new(0);
    Server::start(move |request| {
        let host = request.header("host").expect("a host");
        if let Some(query) = request.path.strip_prefix("/token?") {
            assert_eq!(query, "service=registry&scope=repository%3Ame%2Fmodel%3Apull");
            // me:secret, or anonymous.
            if request.header("authorization").is_some_and(|value| value != "Basic bWU6c2VjcmV0") {
                return Reply::text(401, "");
            }
            used.store(0, Ordering::SeqCst);
            let token = format!("token-{}", issued.fetch_add(1, Ordering::SeqCst) + 1);
            return Reply::text(200, json!({"token": token, "expires_in": 300}).to_string());
        }
        let right = format!("Bearer token-{}", issued.load(Ordering::SeqCst));
        let expired = used.fetch_add(1, Ordering::SeqCst) >= 3;
        if request.header("authorization") != Some(&right) || expired {
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"registry\",scope=\"x\"");
            return Reply::text(401, "").with("www-authenticate", &challenge);
        }
        answer(request)
    })
}

#[test]
fn artifacts_are_pulled_with_tokens_that_expire() {
    for (tag, name) in [("v1", "fine-Q4_0"), ("index", "fine-Q4_0"), ("docker", "model-docker")] {
        let (models, registry) = (Models::new(), registry());
        let source = format!("oci://127.0.0.1:{}/me/model:{tag}", registry.port);
        let mut command = models.pull(&source);
        command.env("HESPER_RETRIES", "10");
        let (printed, _) = succeed(command);
        assert_holds(&printed, &[&format!("Pulled {name}"), content().sha256(), "as stated by the source"]);
        models.assert_pulled(name, content());
        assert_holds(&succeed(models.hesper(&["list"])).0, &[&source]);
    }
}

#[test]
fn credentials_are_shown_to_the_token_service() {
    let (models, registry) = (Models::new(), registry());
    let pull = |credentials: &str| {
        let mut command = models.pull("oci://ghcr.io/me/model:v1");
        command
            .env("HESPER_OCI_ENDPOINT", registry.url(""))
            .env("HESPER_TOKEN", credentials)
            .env("HESPER_RETRIES", "10");
        command
    };
    let error = fail(pull("me:wrong"));
    assert_holds(&error, &["401", "may not read it"]);
    assert!(!error.contains("wrong"), "{error}");
    assert_holds(&fail(pull("secret")), &["USER:PASSWORD"]);
    succeed(pull("me:secret"));
    models.assert_pulled("fine-Q4_0", content());
}

#[test]
fn manifests_that_lead_nowhere_are_refused() {
    let (models, registry) = (Models::new(), Server::start(answer));
    let source = |rest: &str| format!("oci://localhost:{}/me/model{rest}", registry.port);
    let other = format!("@sha256:{}", "1".repeat(64));
    for (rest, parts) in [
        (":v2", &["v2 does not exist there", "near it are the tags v1"][..]),
        (":image", &["holds no GGUF file", "tar+gzip"]),
        (":garbage", &["not what this service answers"]),
        (":escape", &["\".bashrc\" cannot be a model's name"]),
        (&other, &["the manifest of oci://", "1111", "SHA-256"]),
    ] {
        assert_holds(&fail(models.pull(&source(rest))), parts);
        assert_eq!(models.files(), Vec::<String>::new());
    }
    let realm = Server::start(|_| {
        Reply::text(401, "").with("www-authenticate", "Bearer realm=\"http://example.invalid/token\"")
    });
    let error = fail(models.pull(&format!("oci://localhost:{}/me/model:v1", realm.port)));
    assert_holds(&error, &["sends for a token to http://example.invalid/token", "not encrypted"]);
    let basic = Server::start(|_| Reply::text(401, "").with("www-authenticate", "Basic realm=\"x\""));
    let error = fail(models.pull(&format!("oci://localhost:{}/me/model:v1", basic.port)));
    assert_holds(&error, &["wants to know who asks", "USER:PASSWORD"]);
}

#[test]
fn ollamas_model_layer_is_taken() {
    let models = Models::new();
    // Blobs lie at another server, as Ollama's do.
    let storage = Server::start(|request| Reply::file(request, content()));
    let blobs = storage.url("/bucket/data?signature=hidden");
    let registry = Server::start(move |request| match request.path.as_str() {
        "/v2/library/tiny/manifests/0.6b" => Reply::text(
            200,
            manifest(&[
                layer("application/vnd.ollama.image.model", content(), None),
                layer("application/vnd.ollama.image.template", &Content::new(7, 1), None),
                layer("application/vnd.ollama.image.params", &Content::new(8, 1), None),
            ]),
        ),
        path if path == format!("/v2/library/tiny/blobs/sha256:{}", content().sha256()) => Reply::redirect(&blobs),
        _ => Reply::text(404, "{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}"),
    });
    let pull = |source: &str| {
        let mut command = models.pull(source);
        command.env("HESPER_OLLAMA_ENDPOINT", registry.url(""));
        command
    };
    assert_holds(&succeed(pull("ollama://tiny:0.6b")).0, &["Pulled tiny-0.6b"]);
    models.assert_pulled("tiny-0.6b", content());
    assert_holds(&fail(pull("ollama://tiny")), &["ollama://tiny:latest does not exist there", "check the name"]);
}
