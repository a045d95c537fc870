//! Encrypted servers. On Linux only: elsewhere the system says which certificates are trusted, and not a variable.

use super::server::{Content, Reply, Server};
use super::{Models, assert_holds, fail, succeed};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::sync::Arc;

/// A configuration for localhost, and its certificate in a file.
fn certificate(models: &Models) -> (Arc<ServerConfig>, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let path = models.path("certificate.pem");
    std::fs::write(&path, cert.pem()).expect("it is written");
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a certificate that fits the key");
    (Arc::new(config), path.to_str().expect("a plain path").to_owned())
}

#[test]
fn encryption_is_kept_once_begun() {
    let (models, aside) = (Models::new(), Models::new());
    let (tls, certificate) = certificate(&aside);
    let content = Content::new(20 << 20, 8);
    let (file, plain) = (content.clone(), Server::of(&content));
    let open = plain.url("/m.gguf");
    let server = Server::listen(Some(tls), move |request| match request.path.as_str() {
        "/open.gguf" => Reply::redirect(&open),
        _ => Reply::file(request, &file).with("etag", "\"one\""),
    });
    let pull = |path: &str| {
        let mut command = models.pull(&format!("https://localhost:{}{path}", server.port));
        command.env("HESPER_TOKEN", "secret-token").env("HESPER_RETRIES", "1");
        command
    };
    // A certificate that nobody vouches for is none.
    assert_holds(&fail(pull("/m.gguf")), &["localhost cannot be reached", "certificate"]);
    assert_eq!(server.count(), 0);
    let trusting = |path: &str| {
        let mut command = pull(path);
        command.env("SSL_CERT_FILE", &certificate);
        command
    };
    assert_holds(&fail(trusting("/open.gguf")), &["which is not encrypted; that is refused"]);
    assert_eq!(plain.count(), 0);
    succeed(trusting("/m.gguf"));
    models.assert_pulled("m", &content);
}
