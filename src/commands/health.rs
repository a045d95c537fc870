//! `hesper health`: asks a server how it is, for a container's health check, where there is no shell and no curl.

use super::serve::path_prefix;
use anyhow::{Context, Result, anyhow, bail};
use hesper::load::client::with_tls;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Longest answer that is read: a server's is below one KiB.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Ask a server whether it is ready
///
/// Exits 0 when it would take a request now, and 1 when it is loading, ending, stopped or not there. Without --url it
/// asks the server of this machine that `hesper serve` with the same variables would be.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  hesper health\n  hesper health --port 8081\n  \
                        hesper health --url https://models.example.org --timeout 2")]
pub struct Flags {
    /// The server, as http://127.0.0.1:8080 [default: made of host and port].
    #[arg(long, env = "HESPER_URL", value_name = "URL", value_parser = url)]
    url: Option<Url>,
    /// Address that the server listens on; 0.0.0.0 and :: are asked as this machine.
    #[arg(long, env = "HESPER_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port that the server listens on.
    #[arg(long, env = "HESPER_PORT", default_value = "8080")]
    port: u16,
    /// Certificate of the server of this machine, which is then asked over HTTPS.
    #[arg(long, env = "HESPER_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Path before all others of the server of this machine.
    #[arg(long, env = "HESPER_PATH_PREFIX", value_name = "PATH", default_value = "", hide_default_value = true,
          value_parser = path_prefix)]
    path_prefix: String,
    /// How long the server may take to answer.
    #[arg(long, env = "HESPER_TIMEOUT", default_value = "5", value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
}

fn url(text: &str) -> Result<Url, String> {
    const WRONG: &str = "give it as http://HOST:PORT or https://HOST";
    let url = Url::parse(text).map_err(|error| format!("{error}; {WRONG}"))?;
    if !matches!(url.scheme(), "http" | "https") { Err(WRONG.to_owned()) } else { Ok(url) }
}

impl Flags {
    /// Where `/health` is. A `--url` may end in `/v1`, as API clients are given it.
    fn address(&self) -> Result<Url> {
        let Some(url) = &self.url else {
            let host = match self.host.as_str() {
                "0.0.0.0" => "127.0.0.1".to_owned(),
                "::" | "[::]" => "[::1]".to_owned(),
                bare if bare.contains(':') && !bare.starts_with('[') => format!("[{bare}]"),
                other => other.to_owned(),
            };
            let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
            return Url::parse(&format!("{scheme}://{host}:{}{}/health", self.port, self.path_prefix))
                .map_err(|error| anyhow!("{:?} is no host: {error}; give its name or address with --host", self.host));
        };
        let mut url = url.clone();
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/v1").unwrap_or(path).to_owned() + "/health";
        url.set_path(&path);
        url.set_query(None);
        Ok(url)
    }
}

/// What Hesper answers; of fields that a later version adds nothing is wanted here.
#[derive(Deserialize)]
struct Health {
    status: String,
    device: Option<Device>,
    model: Option<Model>,
    /// Of a server that has several.
    models: Option<Vec<Model>>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    driver: String,
    software: bool,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    status: Option<String>,
}

pub fn health(flags: &Flags) -> Result<ExitCode> {
    let address = flags.address()?;
    let limit = Duration::from_secs(flags.timeout.into());
    // A check of this server, not of a proxy between.
    let client = Client::builder().timeout(limit).no_proxy().redirect(reqwest::redirect::Policy::none());
    let client = with_tls(client, &address);
    // The server of this machine is asked by an address that its certificate does not name, and is told nothing secret.
    let client = client.tls_danger_accept_invalid_certs(flags.url.is_none() && flags.tls_cert.is_some()).build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime.block_on(ask(&client, address.clone())).map_err(|error| {
        let why = match error.downcast_ref::<reqwest::Error>() {
            Some(error) if error.is_timeout() => format!("no answer within {} s", flags.timeout),
            Some(error) if error.is_connect() => format!("cannot connect ({})", innermost(error)),
            _ => format!("{error:#}"),
        };
        anyhow!("{address}: {why}; is the server running, and is this its address?")
    })?;
    let line = judge(status, &body).with_context(|| address.to_string())?;
    writeln!(io::stdout(), "{line}")?;
    Ok(ExitCode::SUCCESS)
}

/// What was at the bottom of it: `connection refused` rather than `error sending request`.
fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}

async fn ask(client: &Client, address: Url) -> Result<(StatusCode, Vec<u8>)> {
    let mut response: Response = client.get(address).send().await?;
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await? {
        if body.len() + part.len() > ANSWER_BYTES_MAX {
            bail!("the answer is longer than {} KiB, so it is not Hesper's", ANSWER_BYTES_MAX >> 10);
        }
        body.extend_from_slice(&part);
    }
    Ok((response.status(), body))
}

/// One line about a server that is ready; an error about any other.
fn judge(status: StatusCode, body: &[u8]) -> Result<String> {
    let Ok(health) = serde_json::from_slice::<Health>(body) else {
        bail!("answered {status}, but not as Hesper does; is this its address?");
    };
    let word = clean(&health.status);
    match (status, word.as_str()) {
        (StatusCode::OK, "ok") => {}
        (_, "loading") => bail!("the server is still loading its model; ask again"),
        (_, "draining") => bail!("the server is ending: it finishes what runs and takes no more"),
        (_, "stopped") => bail!("the server's engine has stopped; its own output says why, restart it"),
        _ => bail!("the server is not ready: it answered {status} and calls itself {word:?}"),
    }
    let models = match (&health.model, &health.models) {
        (Some(model), _) => clean(&model.id),
        (None, Some(models)) => {
            let loaded = models.iter().filter(|model| model.status.as_deref() == Some("loaded")).count();
            format!("{} models, {loaded} loaded,", models.len())
        }
        (None, None) if health.device.is_some() => "its model, not loaded now,".to_owned(),
        (None, None) => bail!("answered {status}, but not as Hesper does; is this its address?"),
    };
    let Some(device) = health.device else {
        bail!("answered {status}, but not as Hesper does; is this its address?");
    };
    let software = if device.software { ", software" } else { "" };
    Ok(format!("ok: {models} on {} ({}{software})", clean(&device.name), clean(&device.driver)))
}

/// Text from another machine, as it may be shown: short, and without what steers a terminal.
fn clean(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(url: Option<&str>, host: &str) -> String {
        let url = url.map(|text| super::url(text).expect("a URL"));
        let flags =
            Flags { url, host: host.to_owned(), port: 81, timeout: 1, tls_cert: None, path_prefix: String::new() };
        flags.address().expect("an address").to_string()
    }

    #[test]
    fn the_address_is_what_serve_would_listen_on() {
        assert_eq!(address(None, "127.0.0.1"), "http://127.0.0.1:81/health");
        assert_eq!(address(None, "0.0.0.0"), "http://127.0.0.1:81/health");
        assert_eq!(address(None, "::"), "http://[::1]:81/health");
        assert_eq!(address(None, "fe80::1"), "http://[fe80::1]:81/health");
        assert_eq!(address(Some("http://a:1"), "b"), "http://a:1/health");
        assert_eq!(address(Some("https://a/v1/"), "b"), "https://a/health");
        assert_eq!(address(Some("https://a/proxy/v1?x=1"), "b"), "https://a/proxy/health");
        let of = |host: &str| {
            let (tls_cert, path_prefix) = (Some(PathBuf::new()), "/a".to_owned());
            Flags { url: None, host: host.to_owned(), port: 1, timeout: 1, tls_cert, path_prefix }.address()
        };
        assert_eq!(of("::").expect("an address").to_string(), "https://[::1]:1/a/health");
        assert!(of("a b").is_err());
        assert!(url("ftp://a").is_err() && url("127.0.0.1:80").is_err() && url("").is_err());
    }

    #[test]
    fn each_state_is_named() {
        let ok = r#"{"status":"ok","device":{"name":"llvmpipe","driver":"Mesa 26","software":true},
            "model":{"id":"demo","context_tokens":5},"queue":{"waiting":0}}"#;
        let line = judge(StatusCode::OK, ok.as_bytes()).expect("it is ready");
        assert_eq!(line, "ok: demo on llvmpipe (Mesa 26, software)");
        let several = r#"{"status":"ok","device":{"name":"A","driver":"B","software":false},
            "models":[{"id":"a","status":"loaded"},{"id":"b","status":"unloaded"}]}"#;
        assert_eq!(judge(StatusCode::OK, several.as_bytes()).expect("ready"), "ok: 2 models, 1 loaded, on A (B)");
        let unready = StatusCode::SERVICE_UNAVAILABLE;
        for (status, body, part) in [
            (unready, r#"{"status":"loading"}"#, "still loading"),
            (unready, r#"{"status":"draining"}"#, "ending"),
            (unready, r#"{"status":"stopped"}"#, "stopped"),
            (unready, ok, "not ready"),
            (StatusCode::OK, r#"{"status":"ok"}"#, "not as Hesper does"),
            (StatusCode::OK, r#"{"status":"\u001b[2Jfine"}"#, "\"[2Jfine\""),
            (StatusCode::NOT_FOUND, "<html>", "not as Hesper does"),
        ] {
            let error = judge(status, body.as_bytes()).expect_err(body).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(status in 100u16..600, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = judge(StatusCode::from_u16(status).expect("three digits"), &body);
        }

        #[test]
        fn only_readiness_passes(status in 100u16..600, word in "ok|loading|draining|stopped|[a-z]{0,9}") {
            let body = serde_json::json!({"status": word, "device": {"name": "a", "driver": "b", "software": false},
                "model": {"id": "c"}});
            let passes = judge(StatusCode::from_u16(status).expect("three digits"), body.to_string().as_bytes()).is_ok();
            prop_assert_eq!(passes, status == 200 && word == "ok");
        }
    }
}
