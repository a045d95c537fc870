//! The server's certificate and key, as rustls takes them.

use rustls::{
    ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::sync::Arc;

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate cannot be read: {0}; give a PEM file with the server's certificate first")]
    Certificate(String),
    #[error("the key cannot be read: {0}; give a PEM file with the certificate's private key")]
    Key(String),
    #[error("certificate and key cannot be used: {0}")]
    Pair(#[from] rustls::Error),
}

/// TLS 1.2 and 1.3 with a chain of certificates in PEM, the server's own first, and its private key.
pub fn config(chain_pem: &[u8], key_pem: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(TlsError::Certificate("it holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| TlsError::Key(error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let mut config =
        builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_certificate_needs_its_own_key() {
        let ((chain, key), (_, other)) = (pair(), pair());
        config(chain.as_bytes(), key.as_bytes()).expect("a pair");
        for (chain, key, part) in [
            (chain.as_str(), other.as_str(), "certificate and key"),
            (&chain, "", "the key cannot be read"),
            ("", &key, "it holds no certificate"),
            (&chain[..chain.len() / 2], &key, "the certificate cannot be read"),
        ] {
            let error = config(chain.as_bytes(), key.as_bytes()).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_file_panics(text in "(-----BEGIN (CERTIFICATE|PRIVATE KEY)-----\n[A-Za-z0-9+/=]{0,40}\n)?.{0,80}") {
            let _ = config(text.as_bytes(), text.as_bytes());
        }
    }
}
