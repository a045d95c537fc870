//! One file from a server into `….partial`: in ranges over several connections where the server has them, resumed by
//! the journal, hashed while it arrives.

use super::error::Error;
use super::http::{Authorization, Http, content_range, shown, text_of};
use super::journal::{self, Identity, Journal, Ranges};
use super::{Observer, digest};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::task::{JoinSet, block_in_place};

/// Bytes of one request, and the most that connections may be ahead of the hashing.
const PIECE_BYTES: u64 = 16 << 20;
/// Bytes after which a line is written to the journal: what a killed process loses for each connection.
const STEP_BYTES: u64 = 512 << 10;
/// The same where each line waits for the disk.
const SYNCED_STEP_BYTES: u64 = 8 << 20;
/// A connection that brought less before it broke counts as one that brought nothing.
const PROGRESS_BYTES: u64 = 64 << 10;

/// A file to download and where to.
pub struct Job {
    pub url: Url,
    pub auth: Option<Arc<Authorization>>,
    /// The model's source, for the journal.
    pub source: String,
    pub partial: PathBuf,
    /// What the source states of the file.
    pub bytes: Option<u64>,
    pub sha256: Option<String>,
}

/// A job of which it is known what is left to do.
pub struct Prepared {
    job: Job,
    /// None where the server does not say how long the file is.
    pub bytes: Option<u64>,
    /// What identifies the file at the server, where no digest does.
    pub validator: Option<String>,
    has_ranges: bool,
    done: Ranges,
}

/// A file that is complete on the disk, its digest that of the source if that states one.
pub struct Finished {
    pub bytes: u64,
    pub sha256: String,
    pub validator: Option<String>,
}

/// `x.gguf.partial` has its journal in `x.gguf.journal`.
pub fn journal_path(partial: &Path) -> PathBuf {
    partial.with_extension("journal")
}

/// Forgets what was downloaded.
pub fn discard(partial: &Path) -> Result<bool, Error> {
    let journal = journal::remove(&journal_path(partial))?;
    Ok(journal::remove(partial)? || journal)
}

/// Asks the server for the first byte, which says how long the file is, whether it has ranges, and which file it is,
/// and compares that with what is on the disk.
pub async fn prepare(http: &Http, job: Job, observer: &dyn Observer) -> Result<Prepared, Error> {
    let mut failures = 0;
    let response = loop {
        match http.get(&job.url, &range_header(0..1), job.auth.as_deref()).await {
            Err(error @ Error::Unreachable { .. }) => return Err(error),
            Err(error) => http.recover(error, job.auth.as_deref(), &mut failures).await?,
            Ok(response) => break response,
        }
    };
    let wrong = |problem: String| Err(Error::Answer { url: shown(&job.url), problem });
    let (bytes, has_ranges) = match response.status() {
        StatusCode::PARTIAL_CONTENT => match range_of(&response) {
            Some((0, 0, Some(total))) => (Some(total), true),
            _ => return wrong("asked for its first byte, the server answers with another range".to_owned()),
        },
        StatusCode::OK => (response.content_length(), false),
        status => return wrong(format!("the server answers {status}, which is no file")),
    };
    match (bytes, job.bytes) {
        (Some(0), _) => return wrong("the file is empty".to_owned()),
        (Some(found), Some(stated)) if found != stated => {
            return wrong(format!("the server has {found} bytes, but the source states {stated}"));
        }
        _ => {}
    }
    let mut prepared = Prepared {
        bytes: bytes.or(job.bytes),
        validator: validator(&response),
        has_ranges,
        done: Ranges::default(),
        job,
    };
    prepared.compare(observer)?;
    Ok(prepared)
}

impl Prepared {
    /// Bytes that are to come; none where that is not known.
    pub fn remaining(&self) -> Option<u64> {
        Some(self.bytes? - self.done.bytes())
    }

    pub fn done(&self) -> u64 {
        self.done.bytes()
    }

    fn identity(&self) -> Option<Identity> {
        let Job { source, sha256, .. } = &self.job;
        Some(Identity::new(source.clone(), self.bytes?, sha256.clone(), self.validator.clone()))
    }

    /// Takes over what an earlier download of the same file left, and forgets what another one left.
    fn compare(&mut self, observer: &dyn Observer) -> Result<(), Error> {
        let (partial, name) = (&self.job.partial, file_name(&self.job.partial));
        let left = journal::read(&journal_path(partial));
        let size = partial.symlink_metadata().ok().filter(|found| found.is_file()).map(|found| found.len());
        let why = match (left, self.identity()) {
            (None, _) if size.is_none() => return Ok(()),
            (None, _) => "what it holds is not recorded",
            (Some(_), _) if !self.has_ranges => "the server cannot send a part of a file",
            (Some((found, done)), Some(wanted)) if found.is_same_file(&wanted) && size == Some(wanted.bytes) => {
                self.done = done;
                return Ok(());
            }
            (Some(_), Some(wanted)) if wanted.sha256.is_none() && wanted.validator.is_none() => {
                "the server does not say whether the file is still the same"
            }
            _ => "the file at the source has changed",
        };
        observer.note(&format!("{name} starts anew: {why}"));
        discard(partial)?;
        Ok(())
    }

    /// Downloads what is left. When it fails or is dropped, what has come stays on the disk.
    pub async fn run(
        self,
        http: &Arc<Http>,
        connections: usize,
        observer: &Arc<dyn Observer>,
    ) -> Result<Finished, Error> {
        match self.identity() {
            Some(identity) if self.has_ranges => self.run_ranges(identity, http, connections, observer).await,
            _ => self.run_whole(http, observer).await,
        }
    }

    async fn run_ranges(
        self,
        identity: Identity,
        http: &Arc<Http>,
        connections: usize,
        observer: &Arc<dyn Observer>,
    ) -> Result<Finished, Error> {
        let Prepared { job, validator, done, .. } = self;
        let pieces: VecDeque<Range<u64>> = done.gaps(identity.bytes, PIECE_BYTES).into();
        let journal = Journal::create(&journal_path(&job.partial), &identity, &done)?;
        // Where no digest will tell, a line of the journal must not outlive its bytes when the machine loses power.
        let (sink, hash) =
            Sink::open(&job.partial, Some(identity.bytes), Some(journal), done, identity.sha256.is_none())?;
        let workers = connections.min(pieces.len());
        let transfer = Arc::new(Transfer {
            http: http.clone(),
            job,
            identity,
            sink,
            pieces: Mutex::new(pieces),
            observer: observer.clone(),
        });
        let mut running = JoinSet::new();
        for _ in 0..workers {
            running.spawn(transfer.clone().work());
        }
        // The first error ends all: dropping the set aborts the others.
        while let Some(ended) = running.join_next().await {
            ended.map_err(|error| broken(&transfer.job.url, &error))??;
        }
        let url = transfer.job.url.clone();
        let Transfer { job, identity, sink, .. } =
            Arc::into_inner(transfer).ok_or_else(|| broken(&url, &"a connection has not ended"))?;
        finish(job, sink, hash, identity.bytes, validator)
    }

    /// The whole file over one connection, from the start each time.
    async fn run_whole(self, http: &Http, observer: &Arc<dyn Observer>) -> Result<Finished, Error> {
        let Prepared { job, bytes, validator, .. } = self;
        let mut failures = 0;
        loop {
            discard(&job.partial)?;
            let (sink, hash) = Sink::open(&job.partial, None, None, Ranges::default(), false)?;
            let mut at = 0;
            match whole_once(http, &job, bytes, &sink, &mut at, observer.as_ref()).await {
                Ok(()) => return finish(job, sink, hash, at, validator),
                Err(error) => {
                    observer.back(at);
                    http.recover(error, job.auth.as_deref(), &mut failures).await?;
                    observer.note(&format!(
                        "{} starts anew: the server cannot send a part of a file",
                        file_name(&job.partial)
                    ));
                }
            }
        }
    }
}

async fn whole_once(
    http: &Http,
    job: &Job,
    bytes: Option<u64>,
    sink: &Sink,
    at: &mut u64,
    observer: &dyn Observer,
) -> Result<(), Error> {
    let mut response = http.get(&job.url, &HeaderMap::new(), job.auth.as_deref()).await?;
    if let (Some(found), Some(stated)) = (response.content_length(), bytes)
        && found != stated
    {
        return Err(Error::Changed { url: shown(&job.url) });
    }
    let mut begin = 0;
    while let Some(chunk) = http.chunk(&mut response, &job.url).await? {
        if bytes.is_some_and(|bytes| *at + chunk.len() as u64 > bytes) {
            return Err(too_long(&job.url));
        }
        sink.write(*at, &chunk)?;
        *at += chunk.len() as u64;
        observer.advance(chunk.len() as u64);
        if *at - begin >= STEP_BYTES {
            sink.finish(begin..*at)?;
            begin = *at;
        }
    }
    if let Some(bytes) = bytes.filter(|bytes| *at < *bytes) {
        return Err(cut_off(&job.url, *at, bytes));
    }
    sink.finish(begin..*at)
}

fn finish(
    job: Job,
    sink: Sink,
    hash: JoinHandle<std::io::Result<String>>,
    bytes: u64,
    validator: Option<String>,
) -> Result<Finished, Error> {
    let path = &job.partial;
    let Sink { file, written, .. } = sink;
    // Ends the hashing thread when it has come to the end.
    drop(written);
    let hashed = block_in_place(|| hash.join()).map_err(|_| broken(&job.url, &"hashing it ended unexpectedly"))?;
    let sha256 = hashed.map_err(Error::file(path, "the disk may be damaged"))?;
    if let Some(wanted) = job.sha256.filter(|wanted| *wanted != sha256) {
        return Err(Error::Digest { file: file_name(path), wanted, found: sha256 });
    }
    block_in_place(|| file.sync_all()).map_err(Error::file(path, "the disk may be full or damaged"))?;
    Ok(Finished { bytes, sha256, validator })
}

/// What the connections of one download share.
struct Transfer {
    http: Arc<Http>,
    job: Job,
    identity: Identity,
    sink: Sink,
    /// What nobody has taken yet, in the file's order.
    pieces: Mutex<VecDeque<Range<u64>>>,
    observer: Arc<dyn Observer>,
}

impl Transfer {
    async fn work(self: Arc<Self>) -> Result<(), Error> {
        loop {
            let next = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(piece) = next else { return Ok(()) };
            self.fetch(piece).await?;
        }
    }

    async fn fetch(&self, piece: Range<u64>) -> Result<(), Error> {
        let (mut at, mut failures) = (piece.start, 0);
        while at < piece.end {
            let begin = at;
            let mut listed = at;
            let outcome = self.fetch_once(&mut at, &mut listed, piece.end).await;
            self.sink.finish(listed..at)?;
            if at - begin >= PROGRESS_BYTES {
                failures = 0;
            }
            if let Err(error) = outcome {
                self.http.recover(error, self.job.auth.as_deref(), &mut failures).await?;
            }
        }
        Ok(())
    }

    /// Writes bytes from `at` on; up to `listed` they are in the journal.
    async fn fetch_once(&self, at: &mut u64, listed: &mut u64, end: u64) -> Result<(), Error> {
        let url = &self.job.url;
        let wanted = *at..end;
        let mut response = self.http.get(url, &range_header(wanted.clone()), self.job.auth.as_deref()).await?;
        let changed = || Err(Error::Changed { url: shown(url) });
        match (response.status(), range_of(&response)) {
            (StatusCode::PARTIAL_CONTENT, Some((_, _, Some(total)))) if total != self.identity.bytes => {
                return changed();
            }
            (StatusCode::PARTIAL_CONTENT, Some((first, last, _)))
                if first == wanted.start && last == wanted.end - 1 => {}
            (StatusCode::PARTIAL_CONTENT, _) => {
                let problem =
                    format!("asked for bytes {}-{}, the server answers with others", wanted.start, wanted.end - 1);
                return Err(Error::Answer { url: shown(url), problem });
            }
            // It has sent ranges before, so this is another file or another server.
            _ => return changed(),
        }
        if self.identity.sha256.is_none() && validator(&response) != self.identity.validator {
            return changed();
        }
        while let Some(chunk) = self.http.chunk(&mut response, url).await? {
            let length = chunk.len() as u64;
            if length > end - *at {
                return Err(too_long(url));
            }
            self.sink.write(*at, &chunk)?;
            *at += length;
            self.observer.advance(length);
            if *at - *listed >= self.sink.step_bytes() {
                self.sink.finish(*listed..*at)?;
                *listed = *at;
            }
        }
        if *at < end { Err(cut_off(url, *at - wanted.start, wanted.end - wanted.start)) } else { Ok(()) }
    }
}

/// The file on the disk, its journal, and the thread that hashes it.
struct Sink {
    path: PathBuf,
    file: File,
    written: Mutex<Written>,
    /// Whether bytes must be on the disk before the journal lists them.
    synced: bool,
}

struct Written {
    journal: Option<Journal>,
    ranges: Ranges,
    /// Takes the end of what can be hashed.
    frontier: Sender<u64>,
}

impl Sink {
    fn open(
        path: &Path,
        bytes: Option<u64>,
        journal: Option<Journal>,
        done: Ranges,
        synced: bool,
    ) -> Result<(Sink, JoinHandle<std::io::Result<String>>), Error> {
        const ADVICE: &str = "check that you may write there";
        let open = || {
            let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
            if let Some(bytes) = bytes {
                file.set_len(bytes)?;
            }
            let (frontier, ends) = channel();
            let reader = file.try_clone()?;
            let hash = std::thread::Builder::new()
                .name("hash".to_owned())
                .spawn(move || digest::follow(&reader, ends.into_iter()))?;
            Ok((file, frontier, hash))
        };
        let (file, frontier, hash) = open().map_err(Error::file(path, ADVICE))?;
        let prefix = done.prefix();
        let written = Mutex::new(Written { journal, ranges: done, frontier });
        let sink = Sink { path: path.to_owned(), file, written, synced };
        sink.advance_hash(0, prefix)?;
        Ok((sink, hash))
    }

    fn step_bytes(&self) -> u64 {
        if self.synced { SYNCED_STEP_BYTES } else { STEP_BYTES }
    }

    /// Into the page cache, so it does not keep a thread of the runtime long.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, at).map_err(Error::file(&self.path, "check the disk"))
    }

    /// Takes note that `range` has been written.
    fn finish(&self, range: Range<u64>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        if self.synced {
            block_in_place(|| self.file.sync_data()).map_err(Error::file(&self.path, "check the disk"))?;
        }
        let (before, after) = {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(journal) = &mut written.journal {
                journal.append(&range)?;
            }
            let before = written.ranges.prefix();
            written.ranges.insert(range);
            (before, written.ranges.prefix())
        };
        self.advance_hash(before, after)
    }

    fn advance_hash(&self, before: u64, after: u64) -> Result<(), Error> {
        if before == after {
            return Ok(());
        }
        if before < 4 {
            digest::check_magic(&self.file, &self.path)?;
        }
        // The thread ends early only when it cannot read, which it says when it is joined.
        let _ = self.written.lock().unwrap_or_else(PoisonError::into_inner).frontier.send(after);
        Ok(())
    }
}

/// A header that asks for `range`.
fn range_header(range: Range<u64>) -> HeaderMap {
    let value = format!("bytes={}-{}", range.start, range.end - 1);
    HeaderMap::from_iter(HeaderValue::try_from(value).map(|value| (header::RANGE, value)))
}

fn range_of(response: &Response) -> Option<(u64, u64, Option<u64>)> {
    content_range(&text_of(response, header::CONTENT_RANGE)?)
}

/// What identifies the file's bytes: an ETag, unless it is a weak one, or else the time of the last change.
fn validator(response: &Response) -> Option<String> {
    let tag = text_of(response, header::ETAG).filter(|tag| !tag.starts_with("W/"));
    tag.or_else(|| text_of(response, header::LAST_MODIFIED))
}

fn file_name(partial: &Path) -> String {
    partial.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn broken(url: &Url, problem: &dyn std::fmt::Display) -> Error {
    Error::Broken { url: shown(url), problem: problem.to_string() }
}

fn cut_off(url: &Url, bytes: u64, wanted: u64) -> Error {
    broken(url, &format!("the connection ended after {bytes} of {wanted} bytes"))
}

fn too_long(url: &Url) -> Error {
    Error::Answer { url: shown(url), problem: "the server sends more bytes than it said".to_owned() }
}
