//! OCI registries and Ollama's, which is one with media types of its own: from a tag to the layers that are a model.
//!
//! Manifests: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>. Tokens:
//! <https://distribution.github.io/distribution/spec/auth/token/>. Which layers are models: Ollama's, Docker Model
//! Runner's, those of the ModelPack specification, and any whose title ends in .gguf.
//!
//! A client library is not used for this: its answers have no bounds, and it follows redirects by other rules than ours.

use super::error::Error;
use super::http::{self, Authorization, Http, is_local, shown};
use super::{Remote, RemoteFile, digest, hugging_face, names};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most that registries accept, and so the longest that one can serve.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
const TAGS_BYTES_MAX: usize = 1 << 20;
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json";
/// Annotations that hold a layer's file name.
const TITLES: &[&str] = &["org.opencontainers.image.title", "org.cncf.model.filepath"];
const OLLAMA_MODEL: &str = "application/vnd.ollama.image.model";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// Of an index: other manifests.
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// A layer that is a model, or a part of one.
#[derive(Debug, PartialEq)]
pub struct Layer {
    /// In hexadecimal.
    pub sha256: String,
    pub bytes: u64,
    /// The name of the file it was made from, where the manifest keeps it.
    pub title: Option<String>,
}

/// What a manifest leads to.
#[derive(Debug, PartialEq)]
pub enum Content {
    Model(Vec<Layer>),
    /// Another manifest, by its digest.
    Manifest(String),
}

impl Descriptor {
    fn title(&self) -> Option<&str> {
        TITLES.iter().find_map(|key| self.annotations.get(*key)).map(|title| title.rsplit('/').next().unwrap_or(title))
    }

    fn is_model(&self) -> bool {
        let kind = self.media_type.as_str();
        let packed = kind.contains("tar") || kind.contains("gzip") || kind.contains("zstd");
        let gguf = kind == OLLAMA_MODEL || kind.contains("gguf");
        !packed && (gguf || self.title().is_some_and(|title| names::strip_gguf(title).is_some()))
    }
}

/// What the manifest `whole` holds.
///
/// # Errors
/// [`Error::Refused`], with what it holds instead of one model.
pub fn content(manifest: &Manifest, whole: &str) -> Result<Content, Error> {
    let refused =
        |what: String, advice: &str| Err(Error::Refused { what: format!("{whole} {what}"), advice: advice.to_owned() });
    if manifest.schema_version != 2 {
        return refused(
            format!("has a manifest of version {}", manifest.schema_version),
            "publish it again with a current tool",
        );
    }
    match &manifest.manifests[..] {
        [] => {}
        [only] => return Ok(Content::Manifest(only.digest.clone())),
        several => {
            return refused(format!("is a list of {} manifests", several.len()), "name one of them by its digest");
        }
    }
    let mut layers = Vec::new();
    for layer in manifest.layers.iter().filter(|layer| layer.is_model()) {
        layers.push((layer.title().and_then(|title| names::split(names::strip_gguf(title)?)), layer));
    }
    layers.sort_by_key(|(part, _)| *part);
    match &layers[..] {
        [] => {
            let kinds: Vec<&str> = manifest.layers.iter().map(|layer| layer.media_type.as_str()).take(10).collect();
            let what = format!("holds no GGUF file; its layers are {}", kinds.join(", "));
            return refused(what.chars().take(600).collect(), "give the reference of a model in that format");
        }
        [_] => {}
        [(Some((stem, _, count)), _), ..] if *count as usize == layers.len() => {
            if !layers.iter().zip(1..).all(|((part, _), number)| *part == Some((*stem, number, *count))) {
                return refused("has parts of different models".to_owned(), "publish it again with all parts of one");
            }
        }
        several => {
            return refused(format!("holds {} models", several.len()), "give the reference of one with a single model");
        }
    }
    let layer = |(_, layer): &(_, &Descriptor)| {
        let sha256 = layer.digest.strip_prefix("sha256:").and_then(digest::parse);
        let title = layer.title().map(str::to_owned);
        sha256.map(|sha256| Layer { sha256, bytes: layer.size, title })
    };
    match layers.iter().map(layer).collect() {
        Some(layers) => Ok(Content::Model(layers)),
        None => refused("names a layer by a digest that is not SHA-256".to_owned(), "publish it again with that"),
    }
}

/// Where the token of a `WWW-Authenticate: Bearer realm="…",service="…"` comes from; none for other challenges.
pub fn token_service(challenge: &str, repository: &str) -> Option<Url> {
    let challenges = http_auth::parse_challenges(challenge).ok()?;
    let bearer = challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let value = |name: &str| {
        let (_, value) = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped())
    };
    let mut url: Url = value("realm")?.parse().ok()?;
    url.host_str()?;
    if let Some(service) = value("service") {
        url.query_pairs_mut().append_pair("service", &service);
    }
    url.query_pairs_mut().append_pair("scope", &format!("repository:{repository}:pull"));
    Some(url)
}

/// A repository at a registry.
pub struct Registry<'a> {
    pub http: &'a Http,
    /// The server, as `https://ghcr.io`.
    pub endpoint: Url,
    pub repository: String,
    /// `USER:PASSWORD`.
    pub credentials: Option<&'a str>,
}

impl Registry<'_> {
    /// The model behind a tag or digest; `whole` is the reference as its user knows it.
    pub async fn resolve(&self, tag: &str, whole: &str) -> Result<Remote, Error> {
        let mut auth = None;
        let (mut wanted, mut follow) = (tag.to_owned(), true);
        let layers = loop {
            let manifest = self.manifest(&wanted, whole, &mut auth).await?;
            match content(&manifest, whole)? {
                Content::Model(layers) => break layers,
                Content::Manifest(digest) if follow => (wanted, follow) = (digest, false),
                Content::Manifest(_) => {
                    let what = format!("{whole} is a list of lists");
                    return Err(Error::Refused { what, advice: "name a manifest by its digest".to_owned() });
                }
            }
        };
        let auth = auth.map(Arc::new);
        let short = self.repository.rsplit('/').next().unwrap_or(&self.repository);
        let title = layers[0].title.as_deref().and_then(names::of_file);
        let tagged = || match tag {
            "latest" => short.to_owned(),
            digest if digest.contains(':') => short.to_owned(),
            tag => format!("{short}-{tag}"),
        };
        let file = |layer: Layer| RemoteFile {
            url: self.url(["blobs", &format!("sha256:{}", layer.sha256)]),
            auth: auth.clone(),
            bytes: Some(layer.bytes),
            sha256: Some(layer.sha256),
        };
        // Titles as "model.gguf" say nothing, so they count only where they do.
        let name = title.filter(|title| !title.eq_ignore_ascii_case("model")).map_or_else(tagged, str::to_owned);
        Ok(Remote { name, files: layers.into_iter().map(file).collect(), chosen: None })
    }

    fn url(&self, last: [&str; 2]) -> Url {
        hugging_face::below(&self.endpoint, ["v2"].into_iter().chain(self.repository.split('/')).chain(last))
    }

    /// Fetches a manifest; a token is fetched, into `auth`, when the registry asks for one.
    async fn manifest(&self, tag: &str, whole: &str, auth: &mut Option<Authorization>) -> Result<Manifest, Error> {
        let url = self.url(["manifests", tag]);
        let accept = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(ACCEPT))]);
        let mut answer = self.http.body(&url, &accept, auth.as_ref(), MANIFEST_BYTES_MAX).await;
        if let (Err(Error::Status { status: 401, challenge: Some(challenge), .. }), None) = (&answer, &auth) {
            *auth = Some(self.authorize(challenge).await?);
            answer = self.http.body(&url, &accept, auth.as_ref(), MANIFEST_BYTES_MAX).await;
        }
        let body = match answer {
            Err(error @ Error::Status { status: 404, .. }) => {
                return Err(self.unknown(tag, whole, auth.as_ref(), error).await);
            }
            other => other?,
        };
        if let Some(wanted) = tag.strip_prefix("sha256:") {
            let found = digest::of_bytes(&body);
            if found != wanted.to_ascii_lowercase() {
                return Err(Error::Digest {
                    file: format!("the manifest of {whole}"),
                    wanted: wanted.to_owned(),
                    found,
                });
            }
        }
        http::parse_json(&url, &body)
    }

    async fn authorize(&self, challenge: &str) -> Result<Authorization, Error> {
        let basic = self.credentials.map(basic).transpose()?;
        let Some(service) = token_service(challenge, &self.repository) else {
            let Some(basic) = basic else {
                return Err(Error::Refused {
                    what: format!("{} wants to know who asks", shown(&self.endpoint)),
                    advice: "give --token USER:PASSWORD, or set HESPER_TOKEN".to_owned(),
                });
            };
            http::require_privacy(&self.endpoint)?;
            return Ok(Authorization::fixed(&self.endpoint, basic));
        };
        if service.scheme() != "https" && !(is_local(&service) && self.endpoint.scheme() == "http") {
            return Err(Error::Refused {
                what: format!(
                    "{} sends for a token to {}, which is not encrypted",
                    shown(&self.endpoint),
                    shown(&service)
                ),
                advice: "use a registry whose token service has https".to_owned(),
            });
        }
        let auth = Authorization::renewable(&self.endpoint, service, basic);
        self.http.renew(&auth).await?;
        Ok(auth)
    }

    /// What to say of a tag that is not there, with the nearest that are.
    async fn unknown(&self, tag: &str, whole: &str, auth: Option<&Authorization>, error: Error) -> Error {
        #[derive(Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        // It is only for the advice; Ollama's registry, for one, has no such list.
        let answer = self.http.json(&self.url(["tags", "list"]), auth, TAGS_BYTES_MAX).await;
        let tags = answer.ok().and_then(|tags: Tags| tags.tags).unwrap_or_default();
        let plain = |tag: &&String| tag.len() < 200 && !tag.contains(char::is_control);
        let near = names::near(tag, tags.iter().filter(plain).map(String::as_str), 5);
        let advice = match near.is_empty() {
            true => "check the name and the tag".to_owned(),
            false => format!("near it are the tags {}", near.join(", ")),
        };
        match error {
            Error::Status { .. } => {
                Error::Refused { what: format!("{whole} does not exist there (status 404)"), advice }
            }
            other => other,
        }
    }
}

/// `Basic …` of `USER:PASSWORD`.
fn basic(credentials: &str) -> Result<HeaderValue, Error> {
    if !credentials.contains(':') {
        return Err(Error::Refused {
            what: "--token of a registry is not USER:PASSWORD".to_owned(),
            advice: "where only a token was given to you, any user's name before it will often do".to_owned(),
        });
    }
    http::secret_value("Basic", &STANDARD.encode(credentials))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer(kind: &str, title: Option<&str>) -> String {
        let annotations = title
            .map(|title| format!(",\"annotations\":{{\"org.opencontainers.image.title\":\"{title}\"}}"))
            .unwrap_or_default();
        let digest = "ab".repeat(32);
        format!("{{\"mediaType\":\"{kind}\",\"digest\":\"sha256:{digest}\",\"size\":7{annotations}}}")
    }

    fn of(layers: &[String]) -> Result<Content, String> {
        let text = format!("{{\"schemaVersion\":2,\"layers\":[{}]}}", layers.join(","));
        let manifest: Manifest = serde_json::from_str(&text).expect("a manifest");
        content(&manifest, "x").map_err(|error| error.to_string())
    }

    fn count(layers: &[String]) -> usize {
        match of(layers).expect("a model") {
            Content::Model(layers) => layers.len(),
            Content::Manifest(_) => 0,
        }
    }

    #[test]
    fn the_layers_that_are_a_model_are_found() {
        let template = layer("application/vnd.ollama.image.template", None);
        assert_eq!(count(&[template.clone(), layer(OLLAMA_MODEL, None)]), 1);
        assert_eq!(count(&[layer("application/vnd.docker.ai.gguf.v3", None)]), 1);
        assert_eq!(
            count(&[layer("application/octet-stream", Some("a/x.GGUF")), layer("text/plain", Some("LICENSE"))]),
            1
        );
        let parts = [2, 1].map(|n| layer("application/octet-stream", Some(&format!("x-0000{n}-of-00002.gguf"))));
        let Ok(Content::Model(found)) = of(&parts) else { panic!("two parts") };
        assert_eq!(found[0].title.as_deref(), Some("x-00001-of-00002.gguf"));
        assert!(of(&parts[..1]).is_ok(), "one layer is one model, whatever its name");
        for (layers, problem) in [
            (vec![template], "holds no GGUF file"),
            (vec![], "holds no GGUF file"),
            (vec![layer(OLLAMA_MODEL, None), layer(OLLAMA_MODEL, None)], "holds 2 models"),
            (vec![parts[0].clone(), parts[0].clone()], "different models"),
            (vec![layer("application/gguf", None).replace("sha256:ab", "md5:ab")], "not SHA-256"),
            (vec![layer("application/gguf+gzip", Some("x.gguf"))], "holds no GGUF file"),
        ] {
            let error = of(&layers).expect_err(problem);
            assert!(error.contains(problem), "{error}");
        }
        let index = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", layer("x", None));
        let index: Manifest = serde_json::from_str(&index).expect("an index");
        assert!(matches!(content(&index, "x"), Ok(Content::Manifest(_))));
    }

    #[test]
    fn challenges_lead_to_token_services() {
        let url =
            token_service("Bearer realm=\"https://a.example/token\",service=\"r\",scope=\"x\"", "me/m").expect("one");
        assert_eq!(url.as_str(), "https://a.example/token?service=r&scope=repository%3Ame%2Fm%3Apull");
        for other in ["", "Basic realm=\"x\"", "Bearer", "Bearer realm=\"nowhere\"", "Bearer realm=\"data:,x\"", "é"] {
            assert_eq!(token_service(other, "me/m"), None, "{other}");
        }
    }

    #[test]
    fn credentials_are_encoded_and_hidden() {
        let value = basic("me:secret").expect("credentials");
        assert_eq!((value.as_bytes(), value.is_sensitive()), (&b"Basic bWU6c2VjcmV0"[..], true));
        assert!(basic("token").is_err());
    }

    proptest! {
        #[test]
        fn hostile_answers_never_panic(text in ".{0,80}", kind in "[a-z/.+]{0,30}", title in "[a-z0-9/.-]{0,40}") {
            let _ = token_service(&text, "me/m");
            let _ = of(&[layer(&kind, Some(&title)), layer(&kind, None)]);
        }
    }
}
