//! The Hugging Face hub: which files a repository has, and which of them is wanted.
//!
//! `GET /api/models/OWNER/REPOSITORY/revision/main?blobs=true` lists the files with their sizes and, as all large ones
//! lie in Git LFS, their SHA-256; `/OWNER/REPOSITORY/resolve/COMMIT/PATH` is a file.
//! <https://huggingface.co/docs/hub/api>, <https://huggingface.co/docs/huggingface_hub/package_reference/hf_api>

use super::error::Error;
use super::http::{Authorization, Http, shown};
use super::names;
use super::reference::{Pick, is_plain_path};
use super::{Endpoints, Remote, RemoteFile, digest};
use reqwest::Url;
use serde::Deserialize;
use std::sync::Arc;

/// Bytes of a list of files; the largest repositories have some thousand.
const LIST_BYTES_MAX: usize = 16 << 20;
const SEARCH_BYTES_MAX: usize = 1 << 20;

/// Quantizations in the order in which one is taken when none is asked for: of those that are known to answer well the
/// smallest first, then what is left.
const PREFERRED: &[&str] =
    &["Q4_K_M", "Q4_0", "Q8_0", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q5_0", "Q6_K", "Q4_1", "Q5_1", "F16", "BF16", "F32"];

#[derive(Debug, Deserialize)]
pub struct Listing {
    /// The commit.
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// The files of one model: one, or all parts in order.
#[derive(Debug, PartialEq)]
pub struct Choice {
    /// The name of its file, without its ending and a part's number.
    pub name: String,
    pub files: Vec<ChosenFile>,
    /// What was taken where nothing was asked for.
    pub quant: Option<String>,
}

#[derive(Debug, PartialEq)]
pub struct ChosenFile {
    pub path: String,
    pub bytes: Option<u64>,
    pub sha256: Option<String>,
}

/// A model of a repository before it is chosen: its path without the ending, and its parts.
struct Candidate<'a> {
    stem: &'a str,
    count: u32,
    parts: Vec<(u32, &'a Sibling)>,
}

impl Candidate<'_> {
    fn file_name(&self) -> &str {
        self.stem.rsplit('/').next().unwrap_or(self.stem)
    }

    /// The quantization by the file's name or else by its folder's: `Q4_K_M` of `model-Q4_K_M` or `model.q4_k_m`.
    fn quant(&self) -> Option<String> {
        let folder = self.stem.rsplit('/').nth(1);
        quant_of(self.file_name()).or_else(|| quant_of(folder?))
    }
}

fn quant_of(name: &str) -> Option<String> {
    let words: Vec<&str> = name.split(['-', '.']).collect();
    let at = words.iter().rposition(|word| is_quant(word))?;
    let dynamic = at > 0 && words[at - 1].eq_ignore_ascii_case("ud");
    Some(if dynamic { format!("{}-{}", words[at - 1], words[at]) } else { words[at].to_owned() })
}

fn is_quant(word: &str) -> bool {
    let word = word.to_ascii_uppercase();
    let numbered = |prefix: &str| {
        word.strip_prefix(prefix).is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_digit()) && (rest.len() == 1 || rest[1..].starts_with('_'))
        })
    };
    numbered("Q")
        || numbered("IQ")
        || numbered("TQ")
        || matches!(word.as_str(), "F16" | "BF16" | "F32" | "FP16" | "FP32")
        || word.starts_with("MXFP4")
}

/// The wanted files of a repository, or what to tell its user.
///
/// # Errors
/// [`Error::Refused`], which lists what there is.
pub fn choose(listing: &Listing, repository: &str, pick: &Pick) -> Result<Choice, Error> {
    let candidates = candidates(listing);
    let refused = |what: String, advice: String| Err(Error::Refused { what, advice });
    if candidates.is_empty() {
        let advice = "look for a repository with files in that format; its name often ends in -GGUF".to_owned();
        return refused(format!("{repository} holds no .gguf file of a model"), advice);
    }
    let quants: Vec<(String, &Candidate)> =
        candidates.iter().filter_map(|candidate| Some((candidate.quant()?, candidate))).collect();
    let of_quant = |wanted: &str| -> Vec<&(String, &Candidate)> {
        quants.iter().filter(|(quant, _)| quant.eq_ignore_ascii_case(wanted)).collect()
    };
    let there = || list(quants.iter().map(|(quant, _)| quant.as_str()));
    let (candidate, quant) = match pick {
        Pick::File(path) => {
            let wanted = names::strip_gguf(path).unwrap_or(path);
            let wanted = names::split(wanted).map_or(wanted, |(stem, _, _)| stem);
            let Some(found) = candidates.iter().find(|candidate| candidate.stem == wanted) else {
                let paths = candidates.iter().map(|candidate| candidate.parts[0].1.rfilename.as_str());
                return refused(format!("{repository} has no file {path}"), near(path, paths));
            };
            (found, None)
        }
        Pick::Quant(wanted) => match of_quant(wanted)[..] {
            [(_, found)] => (*found, None),
            [] => {
                return refused(
                    format!("{repository} has nothing quantized as {wanted}"),
                    format!("it has {}", there()),
                );
            }
            [..] => {
                return refused(format!("{repository} has several models quantized as {wanted}"), paths(&candidates));
            }
        },
        Pick::Preferred => match (PREFERRED.iter().find_map(|quant| of_quant(quant).first().copied()), &candidates[..])
        {
            (Some((quant, _)), _) if of_quant(quant).len() > 1 => {
                return refused(format!("{repository} has several models"), paths(&candidates));
            }
            (Some((quant, found)), _) => (*found, Some(quant.clone())),
            (None, [only]) => (only, only.quant()),
            (None, _) => {
                let advice = format!("add one after a colon; it has {}", there());
                return refused(format!("{repository} has none of the usual quantizations"), advice);
            }
        },
    };
    chosen(candidate, repository, quant)
}

/// All models of a repository. Projectors of images and matrices of importance are no models, though they end alike.
fn candidates(listing: &Listing) -> Vec<Candidate<'_>> {
    let mut found: Vec<Candidate> = Vec::new();
    for sibling in &listing.siblings {
        let Some(stem) = names::strip_gguf(&sibling.rfilename) else { continue };
        let name = stem.rsplit('/').next().unwrap_or(stem).to_ascii_lowercase();
        if name.starts_with("mmproj") || name.contains("imatrix") || !is_plain_path(&sibling.rfilename) {
            continue;
        }
        let (stem, number, count) = names::split(stem).unwrap_or((stem, 1, 1));
        match found.iter_mut().find(|candidate| candidate.stem == stem && candidate.count == count) {
            Some(candidate) => candidate.parts.push((number, sibling)),
            None => found.push(Candidate { stem, count, parts: vec![(number, sibling)] }),
        }
    }
    found
}

fn chosen(candidate: &Candidate, repository: &str, quant: Option<String>) -> Result<Choice, Error> {
    let mut parts: Vec<&(u32, &Sibling)> = candidate.parts.iter().collect();
    parts.sort_by_key(|(number, _)| *number);
    let numbers = parts.iter().map(|(number, _)| *number);
    if !numbers.eq(1..=candidate.count) {
        return Err(Error::Refused {
            what: format!("{repository} has {} of the {} parts of {}", parts.len(), candidate.count, candidate.stem),
            advice: "choose another file, or tell the repository's owner".to_owned(),
        });
    }
    let file = |(_, sibling): &&(u32, &Sibling)| ChosenFile {
        path: sibling.rfilename.clone(),
        bytes: sibling.lfs.as_ref().and_then(|lfs| lfs.size).or(sibling.size),
        sha256: sibling.lfs.as_ref().and_then(|lfs| digest::parse(lfs.sha256.as_deref()?)),
    };
    Ok(Choice { name: candidate.file_name().to_owned(), files: parts.iter().map(file).collect(), quant })
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(30);
    names.truncate(30);
    match (names.is_empty(), more) {
        (true, _) => "no file whose name says how it is quantized: give a file's path".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

fn paths(candidates: &[Candidate]) -> String {
    format!(
        "give one by its path: {}",
        list(candidates.iter().map(|candidate| candidate.parts[0].1.rfilename.as_str()))
    )
}

fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    let near = names::near(wanted, names, 5);
    if near.is_empty() { "check the name".to_owned() } else { format!("near it are {}", near.join(", ")) }
}

/// Asks the hub for a repository and chooses.
pub async fn resolve(
    http: &Http,
    endpoints: &Endpoints,
    token: Option<&str>,
    (owner, repository): (&str, &str),
    pick: &Pick,
) -> Result<Remote, Error> {
    let endpoint = &endpoints.hugging_face;
    let auth = token.map(|token| Authorization::new(endpoint, "Bearer", token)).transpose()?.map(Arc::new);
    let mut url = below(endpoint, ["api", "models", owner, repository, "revision", "main"]);
    url.set_query(Some("blobs=true"));
    let whole = format!("{owner}/{repository}");
    let listing: Listing = match http.json(&url, auth.as_deref(), LIST_BYTES_MAX).await {
        Err(error @ Error::Status { status: 401 | 404, .. }) => {
            return Err(unknown(http, endpoint, &whole, error).await);
        }
        other => other?,
    };
    if listing.sha.is_empty() || !listing.sha.bytes().all(|b| b.is_ascii_alphanumeric()) {
        let problem = "the answer names no commit".to_owned();
        return Err(Error::Answer { url: shown(&url), problem });
    }
    let choice = choose(&listing, &whole, pick)?;
    let file = |file: ChosenFile| RemoteFile {
        url: below(endpoint, [owner, repository, "resolve", &listing.sha].into_iter().chain(file.path.split('/'))),
        auth: auth.clone(),
        bytes: file.bytes,
        sha256: file.sha256,
    };
    Ok(Remote {
        name: choice.name,
        files: choice.files.into_iter().map(file).collect(),
        chosen: choice.quant.map(|quant| format!("{whole}: taking {quant}")),
    })
}

/// The address of a path below an endpoint, each part encoded.
pub fn below<'a>(endpoint: &Url, parts: impl IntoIterator<Item = &'a str>) -> Url {
    let mut url = endpoint.clone();
    // Only addresses that cannot have a path fail; endpoints are http and https.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(parts);
    }
    url
}

/// What to say where the hub has no such repository, or none for this user: it answers 401 for both without a token.
async fn unknown(http: &Http, endpoint: &Url, whole: &str, error: Error) -> Error {
    #[derive(Deserialize)]
    struct Found {
        id: String,
    }
    let Error::Status { status, .. } = error else { return error };
    let name = whole.rsplit('/').next().unwrap_or(whole);
    let mut url = below(endpoint, ["api", "models"]);
    url.query_pairs_mut().append_pair("search", name).append_pair("filter", "gguf").append_pair("limit", "20");
    // It is only for the advice: without it the error still says what is wrong.
    let found: Vec<Found> = http.json(&url, None, SEARCH_BYTES_MAX).await.unwrap_or_default();
    let plain = |found: &&Found| found.id.len() < 200 && !found.id.contains(char::is_control);
    let advice = near(whole, found.iter().filter(plain).map(|found| found.id.as_str()));
    let private = "a private or gated one needs a token that may read it, in HF_TOKEN or --token";
    Error::Refused {
        what: format!("the hub shows no repository {whole} (status {status})"),
        advice: format!("{advice}; {private}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listing(names: &[&str]) -> Listing {
        let sibling = |name: &&str| Sibling {
            rfilename: (*name).to_owned(),
            size: Some(10),
            lfs: Some(Lfs { sha256: Some("AB".repeat(32)), size: Some(11) }),
        };
        Listing { sha: "c0ffee".to_owned(), siblings: names.iter().map(sibling).collect() }
    }

    fn take(names: &[&str], pick: Pick) -> Result<String, String> {
        let choice = choose(&listing(names), "o/r", &pick).map_err(|error| error.to_string())?;
        Ok(choice.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_quantization_is_chosen() {
        let files =
            ["README.md", "m-Q8_0.gguf", "m.q4_k_m.gguf", "mmproj-m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m-IQ2_M.gguf"];
        assert_eq!(take(&files, Pick::Preferred).as_deref(), Ok("m.q4_k_m.gguf"));
        assert_eq!(take(&files, Pick::Quant("q8_0".to_owned())).as_deref(), Ok("m-Q8_0.gguf"));
        assert_eq!(take(&files, Pick::Quant("UD-Q4_K_XL".to_owned())).as_deref(), Ok("m-UD-Q4_K_XL.gguf"));
        assert_eq!(take(&files, Pick::File("m-IQ2_M.gguf".to_owned())).as_deref(), Ok("m-IQ2_M.gguf"));
        assert_eq!(take(&["only.gguf"], Pick::Preferred).as_deref(), Ok("only.gguf"));
        let absent = take(&files, Pick::Quant("Q6_K".to_owned())).expect_err("none");
        assert!(absent.contains("it has IQ2_M, Q8_0, UD-Q4_K_XL, q4_k_m"), "{absent}");
        let typo = take(&files, Pick::File("m-IQ2.gguf".to_owned())).expect_err("none");
        assert!(typo.contains("near it are m-IQ2_M.gguf"), "{typo}");
        assert!(take(&["a-Q4_0.gguf", "b-Q4_0.gguf"], Pick::Preferred).is_err_and(|text| text.contains("several")));
        assert!(take(&["a.safetensors"], Pick::Preferred).is_err_and(|text| text.contains("no .gguf")));
        assert!(
            take(&["a-IQ1_S.gguf", "b-IQ2_S.gguf"], Pick::Preferred).is_err_and(|text| text.contains("IQ1_S, IQ2_S"))
        );
    }

    #[test]
    fn parts_are_taken_together_or_not_at_all() {
        let parts = ["Q4_0/m-00002-of-00002.gguf", "Q4_0/m-00001-of-00002.gguf", "Q8_0/m-00001-of-00002.gguf"];
        let whole = "Q4_0/m-00001-of-00002.gguf Q4_0/m-00002-of-00002.gguf";
        assert_eq!(take(&parts, Pick::Preferred).as_deref(), Ok(whole));
        assert_eq!(take(&parts, Pick::File("Q4_0/m-00002-of-00002.gguf".to_owned())).as_deref(), Ok(whole));
        assert!(take(&parts, Pick::Quant("Q8_0".to_owned())).is_err_and(|text| text.contains("1 of the 2 parts")));
        let choice = choose(&listing(&parts), "o/r", &Pick::Preferred).expect("a choice");
        assert_eq!((choice.name.as_str(), choice.quant.as_deref()), ("m", Some("Q4_0")));
        assert_eq!((choice.files[0].bytes, choice.files[0].sha256.clone()), (Some(11), Some("ab".repeat(32))));
    }

    #[test]
    fn paths_that_climb_are_no_candidates() {
        assert!(take(&["../m-Q4_0.gguf", "a/../../m.gguf", "/m.gguf", "a\\m.gguf"], Pick::Preferred).is_err());
        let url = below(&"https://hub.example/mirror/".parse().expect("an address"), ["a b", "c?d"]);
        assert_eq!(url.as_str(), "https://hub.example/mirror/a%20b/c%3Fd");
    }

    proptest! {
        #[test]
        fn any_list_gives_a_choice_or_an_error(
            names in prop::collection::vec("[a-cQq4_0KM./-]{0,12}(-0000[0-3]-of-0000[0-3])?(.gguf)?", 0..12),
            wanted in "[a-cQ4_0./-]{0,8}",
        ) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            for pick in [Pick::Preferred, Pick::Quant(wanted.clone()), Pick::File(wanted)] {
                if let Ok(choice) = choose(&listing(&names), "o/r", &pick) {
                    prop_assert!(!choice.files.is_empty());
                    prop_assert!(choice.files.iter().all(|file| names.contains(&file.path.as_str())));
                    prop_assert!(choice.files.iter().all(|file| is_plain_path(&file.path)));
                }
            }
        }
    }
}
