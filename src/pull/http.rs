//! Requests and their ways to fail: redirects, silence, refusals, waits. It decides what is tried again and when; what
//! the bytes mean is decided elsewhere.
//!
//! A token goes to the origin that it is for and to no other. Redirects are followed here and not by the library, so
//! that each step is checked.

use super::error::Error;
use super::{Observer, Options};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::error::Error as _;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::{sleep, timeout};

const REDIRECTS_MAX: usize = 10;
/// Longest wait that a server may ask for, and the longest of our own.
const WAIT_MAX: Duration = Duration::from_secs(120);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Bytes of a token service's answer.
const TOKEN_ANSWER_MAX: usize = 64 << 10;

/// A client with this program's rules.
pub struct Http {
    client: Client,
    options: Options,
    observer: Arc<dyn Observer>,
}

/// A secret for one origin.
pub struct Authorization {
    origin: reqwest::Url,
    value: Mutex<Option<HeaderValue>>,
    /// Where a new token comes from when this one has expired, and the credentials for that.
    renewal: Option<(Url, Option<HeaderValue>)>,
}

impl Authorization {
    /// `scheme` as `Bearer`, for the server of `url`.
    ///
    /// # Errors
    /// [`Error::Refused`], when the secret cannot stand in a header or would travel in the clear.
    pub fn new(url: &Url, scheme: &str, secret: &str) -> Result<Authorization, Error> {
        require_privacy(url)?;
        Ok(Authorization { origin: url.clone(), value: Mutex::new(Some(secret_value(scheme, secret)?)), renewal: None })
    }

    /// A token that has still to be fetched from `service`, for the server of `url`.
    pub fn renewable(url: &Url, service: Url, credentials: Option<HeaderValue>) -> Authorization {
        Authorization { origin: url.clone(), value: Mutex::new(None), renewal: Some((service, credentials)) }
    }

    /// Credentials that are sent as they are.
    pub fn fixed(url: &Url, value: HeaderValue) -> Authorization {
        Authorization { origin: url.clone(), value: Mutex::new(Some(value)), renewal: None }
    }

    pub fn is_renewable(&self) -> bool {
        self.renewal.is_some()
    }

    fn value_for(&self, url: &Url) -> Option<HeaderValue> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if url.origin() == self.origin.origin() { value.clone() } else { None }
    }
}

/// A header's value that is never shown.
pub fn secret_value(scheme: &str, secret: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("{scheme} {secret}")).map_err(|_| Error::Refused {
        what: "the token holds characters that no header may have".to_owned(),
        advice: "give it without line ends and quotes".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Refuses to send a secret over a connection that others can read.
pub fn require_privacy(url: &Url) -> Result<(), Error> {
    if url.scheme() == "https" || is_local(url) {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!("a token would be sent to {} without encryption", shown(url)),
        advice: "use https://, or leave the token away".to_owned(),
    })
}

/// Whether the host is this machine.
pub fn is_local(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost" | "[::1]") => true,
        Some(host) => host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

/// The address without user, query and fragment, which may hold secrets.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Neither can fail for an address with a host; without one there is nothing to remove.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Where a redirect leads, given the addresses so far, the one that answered last.
///
/// # Errors
/// [`Error::Answer`], when it is no address, goes in circles, is one too many or would leave encryption.
pub fn next_hop(seen: &[Url], location: &str) -> Result<Url, Error> {
    let Some(last) = seen.last() else {
        return Err(Error::Answer { url: String::new(), problem: "no address".to_owned() });
    };
    let wrong = |problem: String| Err(Error::Answer { url: shown(last), problem });
    let Ok(next) = last.join(location) else { return wrong("it redirects to what is not an address".to_owned()) };
    if !matches!(next.scheme(), "http" | "https") || next.host_str().is_none() {
        return wrong(format!("it redirects to {}, which is not HTTP", shown(&next)));
    }
    if last.scheme() == "https" && next.scheme() == "http" {
        return wrong(format!("it redirects to {}, which is not encrypted; that is refused", shown(&next)));
    }
    if seen.contains(&next) {
        return wrong(format!("it redirects in a circle, back to {}", shown(&next)));
    }
    if seen.len() > REDIRECTS_MAX {
        return wrong(format!("it is the end of {REDIRECTS_MAX} redirects, which is too many"));
    }
    Ok(next)
}

/// First byte, last byte and, where it is known, the whole length of `bytes 0-99/1000`.
pub fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (first, last): (u64, u64) = (number(first)?, number(last)?);
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last, total))
}

/// Time to wait by a `Retry-After`, which is seconds or a date.
pub fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text.trim()).ok()?.duration_since(now).unwrap_or_default()),
    }
}

impl Http {
    pub fn new(options: Options, observer: Arc<dyn Observer>) -> Result<Http, Error> {
        // An error means that the process has a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("hesper/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| Error::Refused {
                what: format!("no HTTP client can be made: {}", causes(&error)),
                advice: "install the system's certificates (package ca-certificates)".to_owned(),
            })?;
        Ok(Http { client, options, observer })
    }

    /// One request, with its redirects. Only 2xx is an answer; the body is still to be read.
    pub async fn get(&self, url: &Url, headers: &HeaderMap, auth: Option<&Authorization>) -> Result<Response, Error> {
        let mut seen = vec![url.clone()];
        loop {
            let url = &seen[seen.len() - 1];
            let mut request = self.client.get(url.clone()).headers(headers.clone());
            // A body that was compressed on the way has other lengths than the file.
            request = request.header(header::ACCEPT_ENCODING, "identity");
            // Never again once another origin was on the way: that one could have chosen the address.
            let own = seen.iter().all(|hop| hop.origin() == url.origin());
            if let Some(value) = auth.filter(|_| own).and_then(|auth| auth.value_for(url)) {
                request = request.header(header::AUTHORIZATION, value);
            }
            let response = match timeout(self.options.stall, request.send()).await {
                Err(_) => return Err(self.silence(url)),
                Ok(Err(error)) => return Err(failure(url, &error)),
                Ok(Ok(response)) => response,
            };
            let status = response.status();
            if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                let Some(location) = text_of(&response, header::LOCATION) else {
                    return Err(Error::Answer { url: shown(url), problem: "it redirects to nowhere".to_owned() });
                };
                let next = next_hop(&seen, &location)?;
                seen.push(next);
                continue;
            }
            return self.checked(response, status, url);
        }
    }

    fn checked(&self, response: Response, status: StatusCode, url: &Url) -> Result<Response, Error> {
        if !status.is_success() {
            let wait = text_of(&response, header::RETRY_AFTER).and_then(|text| retry_after(&text, SystemTime::now()));
            let challenge = text_of(&response, header::WWW_AUTHENTICATE);
            return Err(Error::Status { url: shown(url), status: status.as_u16(), wait, challenge });
        }
        match text_of(&response, header::CONTENT_ENCODING) {
            Some(coding) if coding != "identity" => {
                let problem = format!("the answer is encoded as {coding:?}, which was not asked for");
                Err(Error::Answer { url: shown(url), problem })
            }
            _ => Ok(response),
        }
    }

    /// The next bytes of a body, none at its end.
    pub async fn chunk(
        &self,
        response: &mut Response,
        url: &Url,
    ) -> Result<Option<impl Deref<Target = [u8]> + use<>>, Error> {
        match timeout(self.options.stall, response.chunk()).await {
            Err(_) => Err(self.silence(url)),
            Ok(Err(error)) => Err(failure(url, &error)),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }

    fn silence(&self, url: &Url) -> Error {
        let problem = format!("no byte came for {} s", self.options.stall.as_secs_f64());
        Error::Broken { url: shown(url), problem }
    }

    /// A whole body of at most `bytes_max`. Tried again as often as the options allow.
    pub async fn body(
        &self,
        url: &Url,
        headers: &HeaderMap,
        auth: Option<&Authorization>,
        bytes_max: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut failures = 0;
        loop {
            match self.body_once(url, headers, auth, bytes_max).await {
                // Nothing has been reached yet: more likely a machine without a network than a passing fault.
                Err(error @ Error::Unreachable { .. }) => return Err(error),
                Err(error) => self.pause(error, &mut failures).await?,
                Ok(body) => return Ok(body),
            }
        }
    }

    async fn body_once(
        &self,
        url: &Url,
        headers: &HeaderMap,
        auth: Option<&Authorization>,
        bytes_max: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut response = self.get(url, headers, auth).await?;
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk(&mut response, url).await? {
            if body.len() + chunk.len() > bytes_max {
                let problem = format!("the answer is longer than {bytes_max} bytes, which no such answer is");
                return Err(Error::Answer { url: shown(url), problem });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// A JSON document of at most `bytes_max` bytes.
    pub async fn json<T: DeserializeOwned>(
        &self,
        url: &Url,
        auth: Option<&Authorization>,
        bytes_max: usize,
    ) -> Result<T, Error> {
        let body = self.body(url, &HeaderMap::new(), auth, bytes_max).await?;
        parse_json(url, &body)
    }

    /// Fetches the token that `auth` stands for, anew when it has one.
    pub async fn renew(&self, auth: &Authorization) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let Some((service, credentials)) = &auth.renewal else { return Ok(()) };
        let credentials = credentials.clone().map(|value| Authorization::fixed(service, value));
        let answer: Answer = self.json(service, credentials.as_ref(), TOKEN_ANSWER_MAX).await?;
        let token = answer.token.or(answer.access_token).ok_or_else(|| Error::Answer {
            url: shown(service),
            problem: "the token service's answer has no token".to_owned(),
        })?;
        let value = secret_value("Bearer", &token)?;
        *auth.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    /// What to do after a failed request: a new token where the old one has expired, else [`Http::pause`].
    pub async fn recover(&self, error: Error, auth: Option<&Authorization>, failures: &mut u32) -> Result<(), Error> {
        match (&error, auth) {
            (Error::Status { status: 401, .. }, Some(auth))
                if auth.is_renewable() && *failures < self.options.retries =>
            {
                *failures += 1;
                self.renew(auth).await
            }
            _ => self.pause(error, failures).await,
        }
    }

    /// Waits before the next try, or gives the error back when there should be none. Whoever calls sets `failures` to 0
    /// when there was progress.
    pub async fn pause(&self, error: Error, failures: &mut u32) -> Result<(), Error> {
        if !error.is_transient()
            || *failures >= self.options.retries
            || error.wait().is_some_and(|wait| wait > WAIT_MAX)
        {
            return Err(error);
        }
        let backoff = self.options.backoff.saturating_mul(1 << (*failures).min(16)).min(BACKOFF_MAX);
        let wait = error.wait().unwrap_or(backoff);
        *failures += 1;
        let tries = format!("try {} of {}", *failures, self.options.retries);
        self.observer.note(&format!("{error}; {tries} in {:.1} s", wait.as_secs_f64()));
        sleep(wait).await;
        Ok(())
    }
}

/// A header as text, none when it is absent, not ASCII or longer than any real one.
pub fn text_of(response: &Response, name: HeaderName) -> Option<String> {
    let text = response.headers().get(name)?.to_str().ok()?;
    (text.len() <= 4096).then(|| text.to_owned())
}

pub fn parse_json<T: DeserializeOwned>(url: &Url, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Answer {
        url: shown(url),
        problem: format!("the answer is not what this service answers: {error}"),
    })
}

fn failure(url: &Url, error: &reqwest::Error) -> Error {
    if error.is_connect() {
        let host = url.host_str().unwrap_or_default().to_owned();
        return Error::Unreachable { host, cause: causes(error) };
    }
    Error::Broken { url: shown(url), problem: format!("the connection broke: {}", causes(error)) }
}

/// The causes of an error, innermost last, without its own text, which may hold an address with a signature.
fn causes(error: &reqwest::Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    if texts.is_empty() { "no cause is given".to_owned() } else { texts.join(": ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(text: &str) -> Url {
        text.parse().expect("an address")
    }

    #[test]
    fn redirects_stay_encrypted_and_end() {
        let start = [url("https://a.example/x?secret")];
        assert_eq!(next_hop(&start, "/y").expect("the same host"), url("https://a.example/y"));
        assert_eq!(next_hop(&start, "https://b.example/").expect("another"), url("https://b.example/"));
        next_hop(&[url("http://a.example/")], "http://b.example/").expect("never was encrypted");
        for location in
            ["http://a.example/x", "file:///etc/passwd", "https://a.example/x?secret", "https://", "data:,x"]
        {
            let error = next_hop(&start, location).expect_err(location).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let many: Vec<Url> = (0..11).map(|i| url(&format!("https://a.example/{i}"))).collect();
        next_hop(&many[..10], "/new").expect("ten");
        next_hop(&many, "/new").expect_err("eleven");
    }

    #[test]
    fn secrets_are_for_one_origin_and_private() {
        let auth = Authorization::new(&url("https://a.example/x"), "Bearer", "secret").expect("encrypted");
        assert!(auth.value_for(&url("https://a.example:443/y")).is_some_and(|value| value.is_sensitive()));
        for other in ["https://b.example/", "https://a.example:444/", "http://a.example/", "https://a.example.b/"] {
            assert!(auth.value_for(&url(other)).is_none(), "{other}");
        }
        Authorization::new(&url("http://127.0.0.1:80/"), "Bearer", "secret").expect("this machine");
        for open in ["http://a.example/", "http://127.0.0.1.example/", "http://localhost.example/"] {
            assert!(Authorization::new(&url(open), "Bearer", "secret").is_err(), "{open}");
        }
        assert!(Authorization::new(&url("https://a.example/"), "Bearer", "a\nb").is_err());
        assert_eq!(shown(&url("https://u:p@a.example/x?sig=1#f")), "https://a.example/x");
    }

    #[test]
    fn ranges_and_waits() {
        assert_eq!(content_range("bytes 0-99/1000"), Some((0, 99, Some(1000))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5, 5, None)));
        for wrong in ["", "bytes", "bytes 9-5/10", "bytes 0-10/10", "bytes */10", "bytes +1-2/10", "items 0-1/2"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:00 GMT", now), Some(Duration::from_secs(23)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    proptest! {
        #[test]
        fn headers_never_panic(text in "(bytes )?[0-9*/ -]{0,40}", other in ".{0,60}") {
            for text in [&text, &other] {
                if let Some((first, last, total)) = content_range(text) {
                    prop_assert!(first <= last && total.is_none_or(|total| last < total));
                }
                let _ = retry_after(text, SystemTime::UNIX_EPOCH);
                let _ = next_hop(&[url("https://a.example/x")], text);
            }
        }
    }
}
