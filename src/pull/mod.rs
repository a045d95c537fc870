//! Models from where they are published into a folder: Hugging Face, Ollama's registry, OCI registries, HTTP and files.
//! It knows of models no more than the four bytes with which their files begin.
//!
//! A file arrives as `….partial` and gets its name when it is whole, its digest is right and the disk has it. What is
//! interrupted resumes. All that a server says is checked: names before they are paths, lengths, digests, redirects.

mod digest;
mod download;
mod error;
mod files;
mod http;
mod hugging_face;
mod journal;
mod names;
mod place;
mod reference;
mod registry;
mod store;

pub use error::{Error, gigabytes};
pub use http::{content_range, next_hop, retry_after};
pub use hugging_face::{Listing, choose};
pub use journal::parse as parse_journal;
pub use names::of_file as model_name;
pub use reference::{Pick, Source, has_scheme};
pub use registry::{Manifest, content, token_service};
pub use reqwest::Url;
pub use store::{Entry, Record, RecordedFile, State, Store};

use http::{Authorization, Http, is_local};
use place::Place;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::block_in_place;

/// How to pull.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most ranges of a file that are asked for at once.
    pub connections: usize,
    /// How long a server may send nothing.
    pub stall: Duration,
    /// How often a request is tried again that brought nothing.
    pub retries: u32,
    /// The first pause before that; each further one is twice as long.
    pub backoff: Duration,
    /// For the source: a bearer token, or `USER:PASSWORD` for an OCI registry.
    pub token: Option<String>,
    /// The digest that the file must have, in hexadecimal, where its user knows it.
    pub sha256: Option<String>,
    pub endpoints: Endpoints,
}

/// The servers behind the sources.
#[derive(Clone, Debug)]
pub struct Endpoints {
    pub hugging_face: Url,
    pub ollama: Url,
    /// Asked instead of the registry that an `oci://` reference names.
    pub oci: Option<Url>,
}

/// Who watches a pull.
pub trait Observer: Send + Sync {
    /// Something that the user should know, one sentence.
    fn note(&self, text: &str);
    /// How many bytes the model has, where that is known, and how many of them are here already.
    fn begin(&self, total_bytes: Option<u64>, done_bytes: u64);
    fn advance(&self, bytes: u64);
    /// So many bytes that had come have to come again.
    fn back(&self, bytes: u64);
}

/// A model that is in the folder now.
#[derive(Debug)]
pub struct Pulled {
    pub name: String,
    pub path: PathBuf,
    pub record: Record,
    /// False when it was there before.
    pub is_new: bool,
    /// What came over the network, or from the disk, in this call.
    pub moved_bytes: u64,
}

/// What a source leads to.
struct Remote {
    /// A name that the source suggests; not checked.
    name: String,
    /// At least one; the parts in order.
    files: Vec<RemoteFile>,
    /// What was chosen where the user left it open.
    chosen: Option<String>,
}

struct RemoteFile {
    url: Url,
    auth: Option<Arc<Authorization>>,
    bytes: Option<u64>,
    sha256: Option<String>,
}

/// Brings the model of `source` into the folder of `store`, as `name` or as the source calls it. Dropped in the middle,
/// it leaves what has come, and the next call with the same source takes that up.
///
/// Needs a runtime of several threads, as it hashes and waits for the disk.
///
/// # Errors
/// Every way to fail has a text that says what to do; see [`Error`].
pub async fn pull(
    source: &Source,
    name: Option<&str>,
    store: &Store,
    options: &Options,
    observer: Arc<dyn Observer>,
) -> Result<Pulled, Error> {
    store.create()?;
    let explained = |error| explain(error, source, options.token.is_some());
    if let Source::File(path) = source {
        return block_in_place(|| files::pull(path, name, store, options, observer.as_ref()));
    }
    let http = Arc::new(Http::new(options.clone(), observer.clone())?);
    let mut remote = resolve(source, &http, options).await.map_err(explained)?;
    if let Some(sha256) = &options.sha256 {
        state_digest(&mut remote, source, sha256)?;
    }
    if let Some(chosen) = &remote.chosen {
        observer.note(chosen);
    }
    let place = Place::take(store, name.unwrap_or(&remote.name), source, remote.files.len())?;
    place.receive(remote.files, &http, options, &observer).await.map_err(explained)
}

async fn resolve(source: &Source, http: &Http, options: &Options) -> Result<Remote, Error> {
    let token = options.token.as_deref();
    let endpoints = &options.endpoints;
    match source {
        Source::HuggingFace { owner, repository, pick } => {
            hugging_face::resolve(http, endpoints, token, (owner, repository), pick).await
        }
        Source::Ollama { host, repository, tag } => {
            let endpoint = host.as_deref().map_or(Ok(endpoints.ollama.clone()), server)?;
            let registry = registry::Registry { http, endpoint, repository: repository.clone(), credentials: token };
            registry.resolve(tag, &source.to_string()).await
        }
        Source::Oci(reference) => {
            let endpoint = endpoints.oci.clone().map_or_else(|| server(reference.resolve_registry()), Ok)?;
            let repository = reference.repository().to_owned();
            let tag = reference.digest().or(reference.tag()).unwrap_or("latest");
            registry::Registry { http, endpoint, repository, credentials: token }
                .resolve(tag, &source.to_string())
                .await
        }
        Source::Http(url) => {
            let auth = token.map(|token| Authorization::new(url, "Bearer", token)).transpose()?.map(Arc::new);
            let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
            let name = names::of_file(last).unwrap_or(last).to_owned();
            let file = RemoteFile { url: url.clone(), auth, bytes: None, sha256: None };
            if names::strip_gguf(last).is_some_and(|stem| names::split(stem).is_some()) {
                return split_remote(file, name, last);
            }
            Ok(Remote { name, files: vec![file], chosen: None })
        }
        Source::File(path) => {
            Err(Error::Refused { what: format!("{} is a file", path.display()), advice: "copy it".to_owned() })
        }
    }
}

/// All parts of a split model that lie beside one of them at a server.
fn split_remote(file: RemoteFile, name: String, last: &str) -> Result<Remote, Error> {
    let count = names::strip_gguf(last).and_then(names::split).map_or(1, |(_, _, count)| count);
    let part = |number: u32| {
        let url = file.url.join(&names::file(&name, number as usize, count as usize));
        url.map(|url| RemoteFile { url, auth: file.auth.clone(), bytes: None, sha256: None })
    };
    let files = (1..=count).map(part).collect::<Result<_, _>>();
    let files = files.map_err(|error| Error::Answer { url: http::shown(&file.url), problem: error.to_string() })?;
    Ok(Remote { name, files, chosen: None })
}

/// The server of a host: with encryption, unless it is this machine.
fn server(host: &str) -> Result<Url, Error> {
    let parse = |scheme: &str| format!("{scheme}://{host}/").parse::<Url>();
    let url = parse("https").and_then(|url| if is_local(&url) { parse("http") } else { Ok(url) });
    url.map_err(|error| Error::Reference { text: host.to_owned(), problem: error.to_string() })
}

fn state_digest(remote: &mut Remote, source: &Source, sha256: &str) -> Result<(), Error> {
    let refused = |what: String, advice: &str| Err(Error::Refused { what, advice: advice.to_owned() });
    let Some(sha256) = digest::parse(sha256) else {
        return refused("--sha256 is not a SHA-256 digest".to_owned(), "give its 64 hexadecimal digits");
    };
    match &mut remote.files[..] {
        [RemoteFile { sha256: Some(stated), .. }] if *stated != sha256 => {
            refused(format!("{source} is the file with SHA-256 {stated}, not {sha256}"), "check where you have it from")
        }
        [file] => {
            file.sha256 = Some(sha256);
            Ok(())
        }
        files => refused(format!("{source} has {} files, not one", files.len()), "leave --sha256 away"),
    }
}

/// Refusals in the words of their source.
fn explain(error: Error, source: &Source, has_token: bool) -> Error {
    let Error::Status { url, status: status @ (401 | 403 | 404), .. } = &error else { return error };
    let what = format!("{url}: the server answers {status}");
    let token = match source {
        Source::HuggingFace { .. } => "HF_TOKEN (or HESPER_TOKEN, or --token)",
        _ => "HESPER_TOKEN (or --token)",
    };
    let kind = match source {
        Source::Oci(_) | Source::Ollama { .. } => "USER:PASSWORD",
        _ => "a token",
    };
    let advice = match (status, has_token) {
        (404, _) => "there is no such file: check the name".to_owned(),
        (_, false) => format!("it is private or gated: put {kind} that may read it into {token}"),
        (_, true) => format!("what {token} holds may not read it: ask for access at the source, or use another"),
    };
    Error::Refused { what, advice }
}
