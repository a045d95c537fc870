//! Which models a server has: one file, the files of a folder, or those that a TOML file lists.

use super::super::flags::KvTypeName;
use anyhow::{Context, Result, anyhow, bail};
use hesper::engine::runner::{KvType, SEQUENCES_MAX};
use hesper::pull::{State, Store, model_name};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The TOML file that is looked for in a folder of models.
const LIST_FILE: &str = "models.toml";
/// Longest list that is read.
const LIST_BYTES_MAX: u64 = 1 << 20;
/// Longest name or alias.
const NAME_BYTES_MAX: usize = 200;

/// A model and how it is to be served. What is `None` is as the flags say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub file: PathBuf,
    pub aliases: Vec<String>,
    pub ctx: Option<u32>,
    pub parallel: Option<u32>,
    pub cache_tokens: Option<u32>,
    pub kv_type: Option<KvType>,
    pub keep_alive: Option<KeepAlive>,
    pub pinned: bool,
}

impl Source {
    pub fn new(name: String, file: PathBuf) -> Source {
        Source {
            name,
            file,
            aliases: Vec::new(),
            ctx: None,
            parallel: None,
            cache_tokens: None,
            kv_type: None,
            keep_alive: None,
            pinned: false,
        }
    }
}

/// How long a model stays loaded after its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub enum KeepAlive {
    For(Duration),
    /// Until its memory is needed.
    Forever,
}

/// A keep-alive as TOML has it: `"5m"` or `300`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Seconds(i64),
}

impl TryFrom<Written> for KeepAlive {
    type Error = String;

    fn try_from(written: Written) -> Result<KeepAlive, String> {
        match written {
            Written::Text(text) => keep_alive(&text),
            Written::Seconds(seconds) => keep_alive(&seconds.to_string()),
        }
    }
}

/// `30s`, `5m`, `2h`, seconds without a unit, 0 (unload at once), or -1 (never).
pub fn keep_alive(text: &str) -> Result<KeepAlive, String> {
    const WRONG: &str = "give a time as 30s, 5m, 2h or 300, 0 to unload at once, or -1 to keep it";
    let text = text.trim();
    if text.starts_with('-') {
        let number = text.trim_end_matches(['s', 'm', 'h']);
        return if number == "-1" { Ok(KeepAlive::Forever) } else { Err(WRONG.to_owned()) };
    }
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let seconds = digits.parse::<u32>().map_err(|_| WRONG.to_owned())?;
    Ok(KeepAlive::For(Duration::from_secs(u64::from(seconds) * factor)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    model: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: Option<String>,
    file: PathBuf,
    #[serde(default)]
    aliases: Vec<String>,
    ctx: Option<u32>,
    parallel: Option<NonZeroU32>,
    cache_tokens: Option<NonZeroU32>,
    kv_type: Option<KvTypeName>,
    keep_alive: Option<KeepAlive>,
    #[serde(default)]
    pinned: bool,
}

/// The models of `path`: a folder, whose complete files each have their own name and whose `models.toml` says more of
/// some; or such a TOML file alone, which then says all.
pub fn read(path: &Path) -> Result<Vec<Source>> {
    let found =
        fs::metadata(path).with_context(|| format!("{}: cannot be read; give a folder of models", path.display()))?;
    let mut sources = Vec::new();
    if found.is_dir() {
        let list = path.join(LIST_FILE);
        if list.exists() {
            sources = listed(&list)?;
        }
        let files: BTreeSet<PathBuf> = sources.iter().map(|source| source.file.clone()).collect();
        for entry in Store::new(path.to_owned()).list()? {
            let Some(file) = entry.files.first() else { continue };
            match entry.state {
                State::Complete if files.contains(file) => {}
                State::Complete => sources.push(Source::new(entry.name, file.clone())),
                _ => {
                    eprintln!("warning: {} is incomplete and is not served; `hesper list` says what lacks", entry.name)
                }
            }
        }
    } else {
        sources = listed(path)?;
    }
    if sources.is_empty() {
        bail!("{} holds no model; `hesper pull hf://OWNER/REPOSITORY` gets one", path.display());
    }
    check_names(&sources).with_context(|| path.display().to_string())?;
    if let Some(source) = sources.iter().find(|source| source.parallel.is_some_and(|count| count > SEQUENCES_MAX)) {
        bail!("{}: parallel of {:?} may be {SEQUENCES_MAX} at most", path.display(), source.name);
    }
    Ok(sources)
}

fn listed(path: &Path) -> Result<Vec<Source>> {
    let name = || path.display().to_string();
    if fs::metadata(path).with_context(name)?.len() > LIST_BYTES_MAX {
        bail!("{}: this is no list of models: it is larger than {LIST_BYTES_MAX} bytes", path.display());
    }
    let text = fs::read_to_string(path).with_context(name)?;
    parse(&text, path.parent().unwrap_or(Path::new("."))).with_context(name)
}

/// Files are relative to `folder`.
fn parse(text: &str, folder: &Path) -> Result<Vec<Source>> {
    // The error is of several lines, with the place in the file; an error here is one paragraph.
    let list: List = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        anyhow!("line {line}: {}", error.message().trim().replace('\n', " "))
    })?;
    let source = |listed: Listed| {
        let file = listed.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Source {
            name: listed.name.unwrap_or_else(|| model_name(&file).unwrap_or(&file).to_owned()),
            file: folder.join(&listed.file),
            aliases: listed.aliases,
            ctx: listed.ctx,
            parallel: listed.parallel.map(NonZeroU32::get),
            cache_tokens: listed.cache_tokens.map(NonZeroU32::get),
            kv_type: listed.kv_type.map(KvType::from),
            keep_alive: listed.keep_alive,
            pinned: listed.pinned,
        }
    };
    Ok(list.model.into_iter().map(source).collect())
}

/// Every name means one model and can be written in a request's line and a log's.
fn check_names(sources: &[Source]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in sources.iter().flat_map(|source| std::iter::once(&source.name).chain(&source.aliases)) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            bail!("{name:?} cannot be a model's name: it is empty, too long or holds spaces");
        }
        if !seen.insert(name) {
            bail!("two models have the name {name:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let seconds = |text: &str| {
            keep_alive(text).map(|time| match time {
                KeepAlive::For(time) => Some(time.as_secs()),
                KeepAlive::Forever => None,
            })
        };
        for (text, time) in
            [("5m", 300), ("90", 90), ("0", 0), ("2h", 7200), (" 30s ", 30), ("4294967295h", 15461882262000)]
        {
            assert_eq!(seconds(text), Ok(Some(time)), "{text}");
        }
        assert_eq!((seconds("-1"), seconds("-1m")), (Ok(None), Ok(None)));
        for wrong in ["", "m", "-2", "5d", "5 m", "1.5h", "-", "+", "é"] {
            seconds(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn a_list_says_everything_of_a_model() {
        let text = "[[model]]\nfile = \"a/Big-00001-of-00002.gguf\"\n\n[[model]]\nname = \"chat\"\nfile = \"/m/b.gguf\"\n\
                    aliases = [\"x\"]\nctx = 2048\nparallel = 4\ncache_tokens = 9000\nkv_type = \"q8_0\"\nkeep_alive = 60\npinned = true\n";
        let sources = parse(text, Path::new("/models")).expect("a list");
        assert_eq!(sources[0], Source::new("Big".to_owned(), "/models/a/Big-00001-of-00002.gguf".into()));
        assert_eq!(
            sources[1],
            Source {
                name: "chat".to_owned(),
                file: "/m/b.gguf".into(),
                aliases: vec!["x".to_owned()],
                ctx: Some(2048),
                parallel: Some(4),
                cache_tokens: Some(9000),
                kv_type: Some(KvType::Q8_0),
                keep_alive: Some(KeepAlive::For(Duration::from_secs(60))),
                pinned: true,
            }
        );
        check_names(&sources).expect("different names");
        for (text, part) in [
            ("[[model]]\nfile = \"a\"\ncolour = 1", "line 3: unknown field `colour`"),
            ("[[model]]\nfile = \"a\"\nkv_type = \"q4_0\"", "unknown variant `q4_0`, expected `f16` or `q8_0`"),
            ("[[model]]\nname = \"a\"", "missing field `file`"),
            ("[[model]]\nfile = \"a\"\nkeep_alive = \"long\"", "give a time as"),
            ("model = 5", "line 1"),
            ("[[model", "line 1"),
        ] {
            let error = format!("{:#}", parse(text, Path::new("")).expect_err(text));
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn names_are_unique() {
        let named = |names: &[&str]| {
            let source = |name: &&str| Source::new((*name).to_owned(), PathBuf::new());
            check_names(&names.iter().map(source).collect::<Vec<_>>())
        };
        named(&["a", "b/c:d"]).expect("plain names");
        for wrong in [&["a", "a"][..], &[""], &["a b"], &["a\n"]] {
            named(wrong).expect_err("no names");
        }
        let mut twice = Source::new("a".to_owned(), PathBuf::new());
        twice.aliases = vec!["a".to_owned()];
        check_names(&[twice]).expect_err("an alias is a name");
    }

    #[test]
    fn a_folder_has_its_files_and_what_the_list_says_of_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
        read(folder.path()).expect_err("empty");
        for name in ["a.gguf", "b.gguf", "c-00001-of-00002.gguf", "notes.txt"] {
            put(name, "");
        }
        put(LIST_FILE, "[[model]]\nname = \"chat\"\nfile = \"b.gguf\"\n");
        let names = |path: &Path| read(path).expect("models").into_iter().map(|source| source.name).collect::<Vec<_>>();
        assert_eq!(names(folder.path()), ["chat", "a"]);
        assert_eq!(names(&folder.path().join(LIST_FILE)), ["chat"]);
        put(LIST_FILE, "[[model]]\nfile = \"b.gguf\"\nparallel = 33\n");
        assert!(format!("{:#}", read(folder.path()).expect_err("too many")).contains("32 at most"));
        put(LIST_FILE, "[[model]]\nname = \"a\"\nfile = \"b.gguf\"\n");
        let error = format!("{:#}", read(folder.path()).expect_err("twice"));
        assert!(error.contains("two models have the name \"a\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_list_panics(text in ".{0,200}") {
            let _ = parse(&text, Path::new("/"));
            let _ = keep_alive(&text);
        }
    }
}
