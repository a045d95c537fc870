//! What of a download is on the disk already: a text file beside the partial one. Its first line says which file is
//! downloaded, each further one a range of bytes that was written. A line is appended after its bytes were written, so
//! what is listed is there however the process ended.

use super::error::Error;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// Bytes of a journal that is read: a line for each half megabyte of a terabyte.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;

/// Which file a download is of. What is on the disk counts only while all of this holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub version: u32,
    /// The source as its user gave it.
    pub source: String,
    pub bytes: u64,
    /// The digest that the source states, in hexadecimal.
    pub sha256: Option<String>,
    /// `ETag` or else `Last-Modified`; kept where there is no digest.
    pub validator: Option<String>,
}

impl Identity {
    pub fn new(source: String, bytes: u64, sha256: Option<String>, validator: Option<String>) -> Identity {
        let validator = if sha256.is_some() { None } else { validator };
        Identity { version: VERSION, source, bytes, sha256, validator }
    }

    /// Whether bytes of a download of `self` belong to `other` too; never where nothing identifies the content.
    pub fn is_same_file(&self, other: &Identity) -> bool {
        let known = self.sha256.is_some() || self.validator.is_some();
        known
            && (self.version, self.bytes, &self.sha256, &self.validator)
                == (other.version, other.bytes, &other.sha256, &other.validator)
    }
}

/// Sets of bytes: ranges in order, none empty, none touching the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    pub fn insert(&mut self, new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        let begin = self.0.partition_point(|range| range.end < new.start);
        let end = self.0.partition_point(|range| range.start <= new.end);
        let touched = &self.0[begin..end];
        let start = touched.first().map_or(new.start, |range| range.start.min(new.start));
        let stop = touched.last().map_or(new.end, |range| range.end.max(new.end));
        self.0.splice(begin..end, std::iter::once(start..stop));
    }

    /// What lacks of `0..bytes`, in pieces of at most `piece_bytes`.
    pub fn gaps(&self, bytes: u64, piece_bytes: u64) -> Vec<Range<u64>> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for range in self.0.iter().chain([&(bytes..bytes)]) {
            while at < range.start.min(bytes) {
                let end = (at + piece_bytes).min(range.start.min(bytes));
                pieces.push(at..end);
                at = end;
            }
            at = at.max(range.end);
        }
        pieces
    }

    /// The end of what is there from the first byte on.
    pub fn prefix(&self) -> u64 {
        self.0.first().filter(|range| range.start == 0).map_or(0, |range| range.end)
    }

    /// How many bytes are there.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }
}

/// Reads a journal. None when it is damaged, but for its last line, which may be torn.
pub fn parse(text: &[u8]) -> Option<(Identity, Ranges)> {
    let text = std::str::from_utf8(text).ok()?;
    // What follows the last line's end was being written when the process ended.
    let whole = &text[..text.rfind('\n')?];
    let mut lines = whole.split('\n');
    let identity: Identity = serde_json::from_str(lines.next()?).ok()?;
    if identity.version != VERSION {
        return None;
    }
    let mut ranges = Ranges::default();
    for line in lines {
        let (start, end) = line.split_once(' ')?;
        let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
        if start >= end || end > identity.bytes {
            return None;
        }
        ranges.insert(start..end);
    }
    Some((identity, ranges))
}

/// Reads the journal at `path`; none when there is none that can be used.
pub fn read(path: &Path) -> Option<(Identity, Ranges)> {
    let size = path.symlink_metadata().ok().filter(|found| found.is_file())?.len();
    if size > JOURNAL_BYTES_MAX { None } else { parse(&std::fs::read(path).ok()?) }
}

/// A journal that is being written.
pub struct Journal {
    path: PathBuf,
    file: File,
}

const ADVICE: &str = "check that you may write there";

impl Journal {
    /// Puts a journal with these contents in place of the one at `path`.
    pub fn create(path: &Path, identity: &Identity, ranges: &Ranges) -> Result<Journal, Error> {
        let written = || -> io::Result<File> {
            let mut text = serde_json::to_string(identity)?;
            text.push('\n');
            for range in &ranges.0 {
                text.push_str(&line(range));
            }
            let new = path.with_extension("journal-new");
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(&new)?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&new, path)?;
            OpenOptions::new().append(true).open(path)
        };
        let file = written().map_err(Error::file(path, ADVICE))?;
        Ok(Journal { path: path.to_owned(), file })
    }

    pub fn append(&mut self, range: &Range<u64>) -> Result<(), Error> {
        self.file.write_all(line(range).as_bytes()).map_err(Error::file(&self.path, ADVICE))
    }
}

/// Removes a file that may be absent.
pub fn remove(path: &Path) -> Result<bool, Error> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file(path, ADVICE)(error)),
    }
}

fn line(range: &Range<u64>) -> String {
    format!("{} {}\n", range.start, range.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity(bytes: u64) -> Identity {
        Identity::new("hf://a/b".to_owned(), bytes, Some("12".to_owned()), Some("etag".to_owned()))
    }

    #[test]
    fn a_torn_last_line_is_no_damage() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.journal");
        let mut journal = Journal::create(&path, &identity(100), &Ranges::default()).expect("a journal");
        journal.append(&(0..10)).expect("it is written");
        journal.append(&(20..30)).expect("it is written");
        let (found, ranges) = read(&path).expect("it is read");
        assert_eq!((found, ranges.bytes(), ranges.prefix()), (identity(100), 20, 10));
        let mut text = std::fs::read(&path).expect("it is there");
        text.truncate(text.len() - 2);
        assert_eq!(parse(&text).map(|(_, ranges)| ranges.bytes()), Some(10));
        for damage in ["", "{}\n", "x\n"] {
            assert!(parse(damage.as_bytes()).is_none(), "{damage:?}");
        }
        let head = String::from_utf8(text).expect("text").lines().next().expect("a line").to_owned();
        for line in ["5 5", "5 4", "0 101", "0", "a b", ""] {
            assert!(parse(format!("{head}\n{line}\n").as_bytes()).is_none(), "{line:?}");
        }
    }

    #[test]
    fn only_the_same_file_is_resumed() {
        let (one, same) = (identity(5), identity(5));
        assert!(one.is_same_file(&same) && !one.is_same_file(&identity(6)));
        let tagged = |tag: Option<&str>| Identity::new(String::new(), 5, None, tag.map(str::to_owned));
        assert!(tagged(Some("a")).is_same_file(&tagged(Some("a"))));
        assert!(!tagged(Some("a")).is_same_file(&tagged(Some("b"))));
        assert!(!tagged(None).is_same_file(&tagged(None)), "nothing says that it is the same");
    }

    proptest! {
        #[test]
        fn ranges_are_sets(inserts in prop::collection::vec((0u64..60, 0u64..20), 0..20), piece in 1u64..9) {
            let (mut ranges, mut bits) = (Ranges::default(), [false; 80]);
            for (start, length) in inserts {
                ranges.insert(start..start + length);
                bits[start as usize..(start + length) as usize].fill(true);
            }
            prop_assert_eq!(ranges.bytes(), bits.iter().filter(|bit| **bit).count() as u64);
            prop_assert_eq!(ranges.prefix(), bits.iter().take_while(|bit| **bit).count() as u64);
            prop_assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start));
            for gap in ranges.gaps(70, piece) {
                prop_assert!(!gap.is_empty() && gap.end - gap.start <= piece);
                for at in gap {
                    prop_assert!(!std::mem::replace(&mut bits[at as usize], true), "{} was there", at);
                }
            }
            prop_assert!(bits[..70].iter().all(|bit| *bit));
        }

        #[test]
        fn damaged_journals_never_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }
    }
}
