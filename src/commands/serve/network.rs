//! How a server is reached and by whom: its address, its keys, its certificate, its limits.

use super::super::flags::size;
use anyhow::{Context, Result, anyhow};
use clap::builder::{NonEmptyStringValueParser, PathBufValueParser};
use hesper::api::keys::Keys;
use hesper::api::{Settings, State, cors, tls};
use rustls::ServerConfig;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Largest file of keys or certificates that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(clap::Args)]
pub struct NetworkFlags {
    /// Address to listen on; 0.0.0.0 is every one of this machine.
    #[arg(long, env = "HESPER_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes any free one.
    #[arg(long, env = "HESPER_PORT", default_value = "8080")]
    port: u16,
    /// A key that requests must bring; may be given several times, in the environment with commas between.
    #[arg(long, env = "HESPER_API_KEY", hide_env_values = true, value_name = "KEY", value_delimiter = ',',
          value_parser = NonEmptyStringValueParser::new())]
    api_key: Vec<String>,
    /// File of keys: a line `name:key` each, or `name:sha256:` and the key's digest. SIGHUP reads it again.
    #[arg(long, env = "HESPER_API_KEYS", value_name = "FILE", value_parser = PathBufValueParser::new())]
    api_keys: Option<PathBuf>,
    /// Certificate chain in PEM, with which the server speaks HTTPS only. SIGHUP reads it again.
    #[arg(long, env = "HESPER_TLS_CERT", value_name = "FILE", requires = "tls_key",
          value_parser = PathBufValueParser::new())]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM.
    #[arg(long, env = "HESPER_TLS_KEY", value_name = "FILE", requires = "tls_cert",
          value_parser = PathBufValueParser::new())]
    tls_key: Option<PathBuf>,
    /// Origin of a web page that may use the server from a browser, as https://chat.example.org; * is every one.
    #[arg(long, env = "HESPER_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = cors::check_origin)]
    cors_origin: Vec<String>,
    /// Path before all others, as /hesper, for a proxy that passes it on.
    #[arg(long, env = "HESPER_PATH_PREFIX", value_name = "PATH", default_value = "", hide_default_value = true,
          value_parser = path_prefix)]
    path_prefix: String,
    /// Proxies in front whose x-forwarded-for is believed: 1 believes the address that the nearest adds.
    #[arg(long, env = "HESPER_TRUST_PROXY", value_name = "N", default_value = "0", default_missing_value = "1",
          num_args = 0..=1, value_parser = clap::value_parser!(u8).range(0..=16))]
    trust_proxy: u8,
    /// Largest body of a request, as 4M.
    #[arg(long, env = "HESPER_BODY_LIMIT", value_name = "SIZE", default_value = "4M", value_parser = bytes)]
    body_limit: usize,
    /// Largest head of a request, as 64K; at least 8K.
    #[arg(long, env = "HESPER_HEADER_LIMIT", value_name = "SIZE", default_value = "64K", value_parser = bytes)]
    header_limit: usize,
    /// Connections served at once; more wait to be accepted.
    #[arg(long, env = "HESPER_MAX_CONNECTIONS", value_name = "N", default_value = "1024",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// How long a request may take in all, in seconds [default: for ever]. Clients may ask for less with the header
    /// x-request-timeout.
    #[arg(long, env = "HESPER_REQUEST_TIMEOUT", value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..))]
    request_timeout: Option<u32>,
}

/// Who may use the server, and how it shows who it is.
pub struct Credentials {
    keys: Keys,
    certificate: Option<Arc<ServerConfig>>,
}

impl Credentials {
    /// Has `state` use them from now on.
    pub fn give(self, state: &State) {
        state.set_keys(self.keys);
        if let Some(certificate) = self.certificate {
            state.set_tls(certificate);
        }
    }
}

fn bytes(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| (1024..=1 << 30).contains(bytes))
        .ok_or_else(|| "give 1K to 1G".to_owned())
}

/// A prefix of paths, as it is put before them: `/a/b`, or nothing.
pub fn path_prefix(text: &str) -> Result<String, String> {
    let path = text.trim_end_matches('/');
    let plain =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    match path.strip_prefix('/') {
        None if path.is_empty() => Ok(String::new()),
        Some(rest) if rest.split('/').all(|part| plain(part) && part != "." && part != "..") => Ok(path.to_owned()),
        _ => Err("give a path as /hesper or /a/b, of letters, digits and -._~".to_owned()),
    }
}

impl NetworkFlags {
    /// `settings` with what these flags say.
    pub fn settings(&self, settings: Settings) -> Settings {
        Settings {
            trusted_proxies: self.trust_proxy.into(),
            cors_origins: self.cors_origin.clone(),
            path_prefix: self.path_prefix.clone(),
            request_limit: self.request_timeout.map(|seconds| Duration::from_secs(seconds.into())),
            body_limit_bytes: self.body_limit,
            header_limit_bytes: self.header_limit,
            connections: self.max_connections as usize,
            ..settings
        }
    }

    /// Anyone may use the server.
    pub fn is_open(&self) -> bool {
        self.api_key.is_empty() && self.api_keys.is_none()
    }

    /// As `http://127.0.0.1:8080/hesper`.
    pub fn url(&self, address: SocketAddr) -> String {
        let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}{}", self.path_prefix)
    }

    /// Reads keys and certificate.
    pub fn credentials(&self) -> Result<Credentials> {
        let mut keys = Keys::unnamed(&self.api_key);
        if let Some(path) = &self.api_keys {
            let text = String::from_utf8(read(path)?).map_err(|_| anyhow!("{}: it is no text", path.display()))?;
            keys = keys.and(Keys::parse(&text).with_context(|| path.display().to_string())?);
            warn_of_readers(path);
        }
        let certificate = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => {
                let files = || format!("{} and {}", cert.display(), key.display());
                Some(tls::config(&read(cert)?, &read(key)?).with_context(files)?)
            }
            _ => None,
        };
        Ok(Credentials { keys, certificate })
    }

    /// Reads keys and certificate again. Nothing changes where one of them cannot be used.
    pub fn reload(&self, state: &State) {
        match self.credentials() {
            Ok(credentials) => {
                credentials.give(state);
                eprintln!("SIGHUP: keys and certificate were read again");
            }
            Err(error) => eprintln!("warning: SIGHUP: {}; what was in use before stays", crate::paragraph(&error)),
        }
    }

    pub fn listen(&self) -> Result<(TcpListener, SocketAddr)> {
        let advice = |error: &io::Error| match error.kind() {
            ErrorKind::AddrInUse => "another program uses that port: stop it, or take another port with --port",
            ErrorKind::PermissionDenied => "ports below 1024 need a privilege: take a higher one with --port",
            _ => "give an address of this machine with --host, as 127.0.0.1 or 0.0.0.0",
        };
        let bind = || {
            let listener = TcpListener::bind((self.host.as_str(), self.port))?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        bind()
            .map_err(|error| anyhow!("cannot listen on {} port {}: {error}; {}", self.host, self.port, advice(&error)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let name = || path.display().to_string();
    let found = fs::metadata(path).with_context(name)?;
    if found.len() > FILE_BYTES_MAX {
        return Err(anyhow!("{}: it is larger than {FILE_BYTES_MAX} bytes", path.display()));
    }
    fs::read(path).with_context(name)
}

/// Keys that everyone on the machine can read are none.
fn warn_of_readers(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0) {
            eprintln!(
                "warning: every user of this machine can read the keys in {0}; `chmod o-r {0}` stops that",
                path.display()
            );
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_paths() {
        for (text, prefix) in [("", ""), ("/", ""), ("//", ""), ("/a", "/a"), ("/a/b-c.d/", "/a/b-c.d")] {
            assert_eq!(path_prefix(text).as_deref(), Ok(prefix));
        }
        for wrong in ["a", "/a//b", "/a b", "/{x}", "/é", "/..", "/a/./b"] {
            path_prefix(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn limits_are_sizes() {
        assert_eq!(bytes("4M"), Ok(4 << 20));
        for wrong in ["0", "10", "2G", "x"] {
            bytes(wrong).expect_err(wrong);
        }
    }
}
