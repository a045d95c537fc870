//! The folder of models: `NAME.gguf` (or `NAME-00001-of-00003.gguf` and so on) with `NAME.hesper.json` beside it, which
//! says where it came from. Files that a user puts there are models too; they only lack that record. A download that is
//! not complete is `….gguf.partial` with `….gguf.journal`.

use super::error::{Error, gigabytes};
use super::reference::{Source, has_scheme};
use super::{download, journal, names};
use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub const RECORD_SUFFIX: &str = ".hesper.json";
const PARTIAL_SUFFIX: &str = ".partial";
const RECORD_BYTES_MAX: u64 = 16 << 20;
const ADVICE: &str = "check that you may write there, or choose another folder with --models";

/// What is known of a pulled model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub source: String,
    /// When it was pulled, as HTTP writes dates.
    pub pulled: String,
    pub files: Vec<RecordedFile>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedFile {
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    /// Whether the source stated the digest; else it was computed here.
    pub stated: bool,
    pub validator: Option<String>,
}

/// A model of the folder.
#[derive(Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    /// Its files that are complete, the first part first.
    pub files: Vec<PathBuf>,
    pub bytes: u64,
    pub state: State,
    pub record: Option<Record>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum State {
    Complete,
    /// A download that was interrupted, of this source where that is known.
    Partial {
        done_bytes: u64,
        source: Option<String>,
    },
    /// Parts lack of a split model.
    PartsMissing {
        count: u32,
    },
}

/// A folder of models. It need not exist.
pub struct Store {
    folder: PathBuf,
}

/// Held while a model is pulled or removed.
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held, so that nobody else's is removed. A file that stays does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    pub fn new(folder: PathBuf) -> Store {
        Store { folder }
    }

    /// `$XDG_DATA_HOME/hesper/models`, or `~/.local/share/hesper/models`, on macOS too: one place to tell of. None where
    /// neither variable is set.
    pub fn default_folder(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
        Some(data?.join("hesper/models"))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn create(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.folder).map_err(Error::file(&self.folder, ADVICE))
    }

    pub fn file(&self, name: &str, number: usize, count: usize) -> PathBuf {
        self.folder.join(names::file(name, number, count))
    }

    pub fn partial(&self, name: &str, number: usize, count: usize) -> PathBuf {
        self.folder.join(names::file(name, number, count) + PARTIAL_SUFFIX)
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}{RECORD_SUFFIX}"))
    }

    /// Bytes that this user may still write to the folder's disk.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        let found = statvfs(&self.folder).map_err(|error| Error::file(&self.folder, ADVICE)(error.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Makes this process the only one that changes the model `name`, for as long as the lock is kept. It ends with
    /// the process, however that ends.
    pub fn lock(&self, name: &str) -> Result<Lock, Error> {
        let path = self.folder.join(format!(".{name}.lock"));
        let failed = |error: io::Error| Error::file(&path, ADVICE)(error);
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Locked { name: name.to_owned() }),
                Err(error) => {
                    return Err(Error::file(&path, "the folder's file system has no locks: choose another")(
                        error.into(),
                    ));
                }
            }
            // Another process may have removed the file between the two calls; then it is no lock.
            let mine = file.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|found| (found.dev(), found.ino()) == (mine.dev(), mine.ino())) {
                return Ok(Lock { path, _file: file });
            }
        }
    }

    /// What is known of the model `name`; none when nothing is, or when the record cannot be read as one.
    pub fn record(&self, name: &str) -> Option<Record> {
        let path = self.record_path(name);
        let size = fs::metadata(&path).ok().filter(|found| found.is_file())?.len();
        if size > RECORD_BYTES_MAX { None } else { serde_json::from_slice(&fs::read(path).ok()?).ok() }
    }

    pub fn write_record(&self, name: &str, record: &Record) -> Result<(), Error> {
        let path = self.record_path(name);
        let written = || -> io::Result<()> {
            let new = path.with_extension("json-new");
            let mut file = File::create(&new)?;
            file.write_all(serde_json::to_string_pretty(record)?.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(new, &path)
        };
        written().map_err(Error::file(&path, ADVICE))
    }

    /// Makes renames last when the machine loses power.
    pub fn sync(&self) -> Result<(), Error> {
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(Error::file(&self.folder, ADVICE))
    }

    /// All models, by name. A folder that is not there has none.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::file(&self.folder, "check that you may read it"))?,
        };
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(Error::file(&self.folder, "check that you may read it"))?.path();
            let Some(file) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let whole = file.strip_suffix(PARTIAL_SUFFIX).unwrap_or(file);
            // A name that could not be given to `-m` or `rm` is not listed.
            let Some(name) = names::of_file(whole).filter(|name| names::check(name).is_ok()) else { continue };
            let Ok(size) = fs::metadata(&path) else { continue };
            if !size.is_file() {
                continue;
            }
            let model = found.entry(name.to_owned()).or_default();
            if whole == file { model.files.push((path, size.len())) } else { model.partials.push(path) }
        }
        Ok(found.into_iter().map(|(name, found)| self.entry(name, found)).collect())
    }

    fn entry(&self, name: String, mut found: Found) -> Entry {
        found.files.sort();
        let bytes = found.files.iter().map(|(_, bytes)| bytes).sum();
        let files: Vec<PathBuf> = found.files.into_iter().map(|(path, _)| path).collect();
        let record = self.record(&name);
        let parts = files.first().and_then(|file| {
            let stem = names::strip_gguf(file.file_name()?.to_str()?)?;
            Some(names::split(stem)?.2)
        });
        let state = match (found.partials.is_empty(), parts) {
            (false, _) if record.is_none() || files.is_empty() => {
                let journals = found.partials.iter().filter_map(|path| journal::read(&download::journal_path(path)));
                let (mut done_bytes, mut source) = (bytes, None);
                for (identity, ranges) in journals {
                    done_bytes += ranges.bytes();
                    source = Some(identity.source);
                }
                State::Partial { done_bytes, source }
            }
            (_, Some(count)) if count as usize != files.len() => State::PartsMissing { count },
            _ => State::Complete,
        };
        Entry { name, files, bytes, state, record }
    }

    /// The file to open for a model's name, or for the source that it was pulled from; of a split model the first.
    ///
    /// # Errors
    /// [`Error::Unknown`], which says what there is instead and how to get the model.
    pub fn find(&self, text: &str) -> Result<PathBuf, Error> {
        let entry = self.entry_of(text)?;
        let advice = |source: Option<&String>| match source {
            Some(source) => format!("`hesper pull {source}` gets the rest"),
            None => "pull it again".to_owned(),
        };
        let unknown = |there: String, advice: String| Err(Error::Unknown { text: text.to_owned(), there, advice });
        match &entry.state {
            State::Complete => Ok(entry.files.into_iter().next().unwrap_or_default()),
            State::Partial { done_bytes, source } => {
                let there = format!("a download of it was interrupted after {}", gigabytes(*done_bytes));
                unknown(there, advice(source.as_ref()))
            }
            State::PartsMissing { count } => {
                let there = format!("{} holds {} of its {count} parts", self.folder.display(), entry.files.len());
                unknown(there, advice(entry.record.as_ref().map(|record| &record.source)))
            }
        }
    }

    fn entry_of(&self, text: &str) -> Result<Entry, Error> {
        let mut entries = self.list()?;
        let at = match has_scheme(text) {
            true => {
                let source = text.parse::<Source>()?.to_string();
                entries.iter().position(|entry| match (&entry.record, &entry.state) {
                    (Some(record), _) => record.source == source,
                    (None, State::Partial { source: Some(found), .. }) => *found == source,
                    _ => false,
                })
            }
            false => {
                let name = names::of_file(text).unwrap_or(text);
                entries.iter().position(|entry| entry.name == name)
            }
        };
        if let Some(at) = at {
            return Ok(entries.swap_remove(at));
        }
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).take(20).collect();
        let there = match names.is_empty() {
            true => format!("{} holds no model", self.folder.display()),
            false => format!("{} holds {}", self.folder.display(), names.join(", ")),
        };
        let advice = match (has_scheme(text), names::near(text, names, 1).first()) {
            (true, _) => format!("`hesper pull {text}` gets it"),
            (false, Some(near)) => format!("did you mean {near}? `hesper pull hf://OWNER/REPOSITORY` gets others"),
            (false, None) => "`hesper pull hf://OWNER/REPOSITORY` gets one".to_owned(),
        };
        Err(Error::Unknown { text: text.chars().take(200).collect(), there, advice })
    }

    /// Removes a model with all that belongs to it, and gives the name and the bytes of its files.
    pub fn remove(&self, text: &str) -> Result<(String, u64), Error> {
        let name = self.entry_of(text)?.name;
        let _lock = self.lock(&name)?;
        // As it is now that nobody else changes it.
        let entry = self.entry_of(&name)?;
        // The record last: should this end in the middle, what is left is still known.
        for file in &entry.files {
            journal::remove(file)?;
        }
        for entry in fs::read_dir(&self.folder).map_err(Error::file(&self.folder, ADVICE))? {
            let path = entry.map_err(Error::file(&self.folder, ADVICE))?.path();
            let whole = path.file_name().and_then(|file| file.to_str()?.strip_suffix(PARTIAL_SUFFIX));
            if whole.and_then(names::of_file) == Some(&name) {
                download::discard(&path)?;
            }
        }
        journal::remove(&self.record_path(&name))?;
        Ok((name, entry.bytes))
    }
}

#[derive(Default)]
struct Found {
    files: Vec<(PathBuf, u64)>,
    partials: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::new(folder.path().to_owned());
        (folder, store)
    }

    #[test]
    fn the_folder_follows_the_variables() {
        let with = |data: Option<&'static str>, home: Option<&'static str>| {
            Store::default_folder(|name| if name == "HOME" { home } else { data }.map(Into::into))
        };
        assert_eq!(with(Some("/d"), Some("/h")), Some("/d/hesper/models".into()));
        assert_eq!(with(Some("d"), Some("/h")), Some("/h/.local/share/hesper/models".into()));
        assert_eq!(with(None, None), None);
    }

    #[test]
    fn files_of_any_origin_are_models() {
        let (folder, store) = store();
        for file in
            ["b.gguf", "a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "half-00001-of-00002.gguf", "x.txt", ".y.gguf"]
        {
            fs::write(folder.path().join(file), "GGUF").expect("it is written");
        }
        fs::create_dir(folder.path().join("folder.gguf")).expect("a folder");
        let names: Vec<String> = store.list().expect("a list").into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a", "b", "half"]);
        assert_eq!(store.find("a").expect("whole"), folder.path().join("a-00001-of-00002.gguf"));
        assert_eq!(store.find("b.gguf").expect("whole"), folder.path().join("b.gguf"));
        let half = store.find("half").expect_err("a part lacks").to_string();
        assert!(half.contains("1 of its 2 parts"), "{half}");
        let none = store.find("bb").expect_err("none").to_string();
        assert!(none.contains("holds a, b, half") && none.contains("did you mean b?"), "{none}");
        let none = store.find("hf://o/r").expect_err("none").to_string();
        assert!(none.contains("`hesper pull hf://o/r` gets it"), "{none}");
        assert_eq!(store.remove("a").expect("removed"), ("a".to_owned(), 8));
        store.remove("../b").expect_err("no name");
        assert_eq!(store.list().expect("a list").len(), 2);
    }

    #[test]
    fn one_process_at_a_time() {
        let (_folder, store) = store();
        let lock = store.lock("a").expect("free");
        assert!(matches!(store.lock("a"), Err(Error::Locked { .. })));
        store.lock("b").expect("another model");
        drop(lock);
        store.lock("a").expect("free again");
        assert_eq!(fs::read_dir(store.folder()).expect("a folder").count(), 0, "no lock is left");
    }
}
