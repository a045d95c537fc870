//! Where a model comes from, as its user writes it.

use super::error::Error;
use super::names;
use oci_spec::distribution::Reference;
use reqwest::Url;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A parsed source. `Display` gives it back in one spelling, by which a pulled model is found again.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A repository of the Hugging Face hub.
    HuggingFace {
        owner: String,
        repository: String,
        pick: Pick,
    },
    /// A model of Ollama's registry, or of another host that speaks its protocol.
    Ollama {
        host: Option<String>,
        repository: String,
        tag: String,
    },
    Oci(Reference),
    Http(Url),
    File(PathBuf),
}

/// Which of a repository's files.
#[derive(Clone, Debug, PartialEq)]
pub enum Pick {
    /// The quantization that is preferred among those there are.
    Preferred,
    /// A quantization by its name, in whatever case.
    Quant(String),
    /// A file by its path.
    File(String),
}

const LENGTH_MAX: usize = 4096;

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Source, Error> {
        let wrong = |problem: String| Error::Reference { text: text.chars().take(200).collect(), problem };
        if text.is_empty() || text.len() > LENGTH_MAX || text.contains(char::is_control) {
            return Err(wrong("it is empty, too long or holds control characters".to_owned()));
        }
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Source::File(PathBuf::from(text))) };
        match scheme {
            "hf" => hugging_face(rest).map_err(wrong),
            "ollama" => ollama(rest).map_err(wrong),
            "oci" => oci(rest).map_err(wrong),
            "http" | "https" => http(text).map_err(wrong),
            "file" if rest.starts_with('/') => Ok(Source::File(PathBuf::from(rest))),
            "file" => {
                Err(wrong("a file:// address has the file's whole path, as file:///home/me/model.gguf".to_owned()))
            }
            _ => Err(wrong(format!("the scheme {scheme}:// is not known"))),
        }
    }
}

/// Whether `text` is written as a source, and not as a path or a name.
pub fn has_scheme(text: &str) -> bool {
    text.contains("://")
}

/// One part of a path at a server: letters, digits and `. _ -`, not only dots.
fn component(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if text.is_empty() || text.len() > 128 || !plain || text.bytes().all(|b| b == b'.') {
        return Err(format!("{:?} cannot be a part of a name", text.chars().take(80).collect::<String>()));
    }
    Ok(text.to_owned())
}

fn hugging_face(rest: &str) -> Result<Source, String> {
    let mut parts = rest.splitn(3, '/');
    let (owner, repository, path) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let repository = repository.ok_or("it lacks the repository, as in hf://OWNER/REPOSITORY")?;
    let owner = component(owner)?;
    let (repository, pick) = match (repository.split_once(':'), path) {
        (None, None) => (component(repository)?, Pick::Preferred),
        (Some((repository, quant)), None) => (component(repository)?, Pick::Quant(component(quant)?)),
        (None, Some(path)) => {
            if names::strip_gguf(path).is_none() || !is_plain_path(path) {
                return Err(format!("{path:?} is not the path of a .gguf file"));
            }
            (component(repository)?, Pick::File(path.to_owned()))
        }
        (Some(_), Some(_)) => return Err("give either a quantization or a file".to_owned()),
    };
    Ok(Source::HuggingFace { owner, repository, pick })
}

/// Whether a path of a repository goes down only, by parts that are no `.` or `..`.
pub fn is_plain_path(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '?', '#', '%']);
    path.len() <= 1024 && !path.contains(char::is_control) && path.split('/').all(plain)
}

/// `[HOST/][NAMESPACE/]NAME[:TAG]`; the namespace is `library` and the tag `latest` unless given, as Ollama has it.
fn ollama(rest: &str) -> Result<Source, String> {
    let (path, tag) = match rest.rsplit_once(':') {
        // The colon of a host's port is followed by a path.
        Some((path, tag)) if !tag.contains('/') => (path, component(tag)?),
        _ => (rest, "latest".to_owned()),
    };
    let parts: Vec<&str> = path.split('/').collect();
    let (host, namespace, name) = match parts[..] {
        [name] => (None, "library", name),
        [namespace, name] => (None, namespace, name),
        [host, namespace, name] => (Some(host), namespace, name),
        _ => return Err("it has too many parts".to_owned()),
    };
    let host = host.map(authority).transpose()?;
    Ok(Source::Ollama { host, repository: format!("{}/{}", component(namespace)?, component(name)?), tag })
}

/// A host with or without a port, checked by the parser of addresses.
fn authority(host: &str) -> Result<String, String> {
    let wrong = || format!("{:?} is not a host", host.chars().take(80).collect::<String>());
    let url = Url::parse(&format!("https://{host}/")).map_err(|_| wrong())?;
    let bare = url.path() == "/" && url.query().is_none() && url.username().is_empty() && url.password().is_none();
    if !bare || host.contains(['/', '?', '#', '@', '\\']) { Err(wrong()) } else { Ok(host.to_owned()) }
}

fn oci(rest: &str) -> Result<Source, String> {
    let host =
        rest.split_once('/').map(|(host, _)| host).ok_or("it lacks the registry, as in oci://ghcr.io/ME/MODEL:TAG")?;
    if !host.contains(['.', ':']) && host != "localhost" {
        return Err(format!("{host:?} is not a registry's host"));
    }
    authority(host)?;
    let reference = Reference::try_from(rest).map_err(|error| error.to_string())?;
    match reference.digest() {
        Some(digest) if !digest.starts_with("sha256:") => Err("only sha256 digests are supported".to_owned()),
        _ => Ok(Source::Oci(reference)),
    }
}

fn http(text: &str) -> Result<Source, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address with a user or a password would be kept in plain sight; use --token".to_owned());
    }
    Ok(Source::Http(url))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::HuggingFace { owner, repository, pick } => {
                write!(f, "hf://{owner}/{repository}")?;
                match pick {
                    Pick::Preferred => Ok(()),
                    Pick::Quant(quant) => write!(f, ":{quant}"),
                    Pick::File(path) => write!(f, "/{path}"),
                }
            }
            Source::Ollama { host, repository, tag } => {
                let host = host.as_ref().map(|host| format!("{host}/")).unwrap_or_default();
                let short = if host.is_empty() { repository.strip_prefix("library/") } else { None };
                write!(f, "ollama://{host}{}:{tag}", short.unwrap_or(repository))
            }
            Source::Oci(reference) => write!(f, "oci://{reference}"),
            Source::Http(url) => f.write_str(&super::http::shown(url)),
            Source::File(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        text.parse::<Source>().unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
    }

    #[test]
    fn sources_have_one_spelling() {
        for (text, spelling) in [
            ("hf://Qwen/Qwen3-0.6B-GGUF", "hf://Qwen/Qwen3-0.6B-GGUF"),
            ("hf://Qwen/Qwen3-0.6B-GGUF:Q8_0", "hf://Qwen/Qwen3-0.6B-GGUF:Q8_0"),
            ("hf://a/b/Q4/c-00001-of-00002.gguf", "hf://a/b/Q4/c-00001-of-00002.gguf"),
            ("ollama://qwen3", "ollama://qwen3:latest"),
            ("ollama://library/qwen3:0.6b", "ollama://qwen3:0.6b"),
            ("ollama://me/Mine:Q4", "ollama://me/Mine:Q4"),
            ("ollama://localhost:5000/me/mine", "ollama://localhost:5000/me/mine:latest"),
            ("oci://ghcr.io/me/model", "oci://ghcr.io/me/model:latest"),
            ("oci://localhost:5000/me/model:v1", "oci://localhost:5000/me/model:v1"),
            ("https://example.com/a.gguf?signature=secret#x", "https://example.com/a.gguf"),
            ("file:///a/b.gguf", "/a/b.gguf"),
            ("./b.gguf", "./b.gguf"),
        ] {
            assert_eq!(shown(text), spelling);
            assert_eq!(shown(spelling), spelling);
        }
    }

    #[test]
    fn others_are_refused() {
        for text in [
            "",
            "hf://",
            "hf://a",
            "hf://a/",
            "hf://../b",
            "hf://a/b:",
            "hf://a/b:Q4/c.gguf",
            "hf://a/b/c.bin",
            "hf://a/b/../c.gguf",
            "hf://a/b//c.gguf",
            "hf://a/b%2f",
            "ollama://",
            "ollama://a/b/c/d",
            "ollama://a b",
            "ollama://u@h/a/b",
            "oci://model:tag",
            "oci://me/model:tag",
            "oci://ghcr.io/Me/model:tag",
            "oci://ghcr.io/me/model@sha256:12",
            "oci://u@ghcr.io/me/model",
            "https://user:secret@example.com/a.gguf",
            "https://",
            "file://a.gguf",
            "ftp://a/b.gguf",
            "a\nb",
        ] {
            let error = text.parse::<Source>().expect_err(text).to_string();
            assert!(error.contains("give hf://"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_has_a_stable_spelling(
            text in "((hf|ollama|oci|https?|file)://)?[a-zA-Z0-9:/@.%?#_ \\\\é-]{0,60}"
        ) {
            if let Ok(source) = text.parse::<Source>() {
                let spelling = source.to_string();
                prop_assert_eq!(spelling.parse::<Source>().expect("what was shown is read").to_string(), spelling);
            }
        }
    }
}
