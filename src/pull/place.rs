//! From the files of a source to a model in the folder, one model at a time: what is there is kept, what lacks is
//! downloaded, and only when all is whole do the files get their names.

use super::download::{self, Finished, Job, Prepared};
use super::http::{self, Http};
use super::store::{self, Record, RecordedFile, Store};
use super::{Error, Observer, Options, Pulled, RemoteFile, Source, journal, names};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// How often a download begins anew because the file changes under it.
const RESTARTS_MAX: u32 = 2;

/// A model's place in the folder, which nobody else may change meanwhile.
pub struct Place<'a> {
    store: &'a Store,
    pub name: String,
    source: String,
    count: usize,
    record: Option<Record>,
    /// Files of that name that are there already.
    before: Vec<PathBuf>,
    _lock: store::Lock,
}

impl<'a> Place<'a> {
    /// # Errors
    /// [`Error::Taken`] when another model has the name, [`Error::Locked`], [`Error::Name`].
    pub fn take(store: &'a Store, name: &str, source: &Source, count: usize) -> Result<Place<'a>, Error> {
        let name = names::check(name)?.to_owned();
        let lock = store.lock(&name)?;
        let source = source.to_string();
        let record = store.record(&name);
        let before =
            store.list()?.into_iter().find(|entry| entry.name == name).map(|entry| entry.files).unwrap_or_default();
        let origin = match &record {
            _ if before.is_empty() => None,
            None => Some("put there by other means than a pull".to_owned()),
            Some(record) if record.source != source => Some(format!("pulled from {}", record.source)),
            Some(_) => None,
        };
        match origin {
            Some(origin) => Err(Error::Taken { name, origin }),
            None => Ok(Place { store, name, source, count, record, before, _lock: lock }),
        }
    }

    fn path(&self, number: usize) -> PathBuf {
        self.store.file(&self.name, number, self.count)
    }

    /// The record of part `number`, when the file is there as it was recorded and the source has no other now.
    pub fn unchanged(
        &self,
        number: usize,
        sha256: Option<&str>,
        found: Option<(Option<u64>, Option<&str>)>,
    ) -> Option<RecordedFile> {
        let recorded = self.record.as_ref()?.files.get(number - 1)?;
        let file = std::fs::metadata(self.path(number)).ok()?;
        let same = match (sha256, found) {
            (Some(sha256), _) => recorded.sha256 == sha256,
            (None, Some((bytes, validator))) => {
                bytes == Some(recorded.bytes) && validator.is_some() && validator == recorded.validator.as_deref()
            }
            (None, None) => false,
        };
        (same && file.is_file() && file.len() == recorded.bytes).then(|| recorded.clone())
    }

    /// Downloads what is not there yet.
    pub async fn receive(
        self,
        files: Vec<RemoteFile>,
        http: &Arc<Http>,
        options: &Options,
        observer: &Arc<dyn Observer>,
    ) -> Result<Pulled, Error> {
        let mut plan = Vec::new();
        let (mut needed, mut total, mut done) = (0u64, Some(0u64), 0);
        for (file, number) in files.iter().zip(1..) {
            let step = self.prepare(file, number, http, observer.as_ref()).await?;
            let (bytes, there) = match &step {
                Step::Keep(recorded) => (Some(recorded.bytes), recorded.bytes),
                Step::Download(prepared) => (prepared.bytes, prepared.done()),
            };
            if let Step::Download(prepared) = &step {
                needed = needed.saturating_add(prepared.remaining().unwrap_or(0));
            }
            total = total.zip(bytes).map(|(total, bytes)| total.saturating_add(bytes));
            done += there;
            plan.push(step);
        }
        self.require_space(needed)?;
        observer.begin(total, done);
        let (mut records, mut moved_bytes) = (Vec::new(), 0);
        for ((step, file), number) in plan.into_iter().zip(&files).zip(1..) {
            records.push(match step {
                Step::Keep(recorded) => recorded,
                Step::Download(prepared) => {
                    let before = prepared.done();
                    let Finished { bytes, sha256, validator } =
                        self.download(*prepared, file, number, http, options, observer).await?;
                    moved_bytes += bytes.saturating_sub(before);
                    let file_name = names::file(&self.name, number, self.count);
                    RecordedFile { file: file_name, bytes, sha256, stated: file.sha256.is_some(), validator }
                }
            });
        }
        self.finish(records, moved_bytes)
    }

    async fn prepare(
        &self,
        file: &RemoteFile,
        number: usize,
        http: &Http,
        observer: &dyn Observer,
    ) -> Result<Step, Error> {
        if let Some(recorded) = self.unchanged(number, file.sha256.as_deref(), None) {
            return Ok(Step::Keep(recorded));
        }
        let job = Job {
            url: file.url.clone(),
            auth: file.auth.clone(),
            source: self.source.clone(),
            partial: self.store.partial(&self.name, number, self.count),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
        };
        let prepared = download::prepare(http, job, observer).await?;
        let found = (prepared.bytes, prepared.validator.as_deref());
        Ok(match self.unchanged(number, file.sha256.as_deref(), Some(found)) {
            Some(recorded) => Step::Keep(recorded),
            None => Step::Download(Box::new(prepared)),
        })
    }

    async fn download(
        &self,
        mut prepared: Prepared,
        file: &RemoteFile,
        number: usize,
        http: &Arc<Http>,
        options: &Options,
        observer: &Arc<dyn Observer>,
    ) -> Result<Finished, Error> {
        let partial = self.store.partial(&self.name, number, self.count);
        let mut restarts = 0;
        loop {
            let error = match prepared.run(http, options.connections, observer).await {
                Err(error) => error,
                finished => return finished,
            };
            match error {
                Error::Changed { .. } if restarts < RESTARTS_MAX => {
                    restarts += 1;
                    observer
                        .note(&format!("{}: the file at the source changed; it starts anew", http::shown(&file.url)));
                    let (_, done) = journal::read(&download::journal_path(&partial)).unzip();
                    observer.back(done.map_or(0, |done| done.bytes()));
                    download::discard(&partial)?;
                    prepared = match self.prepare(file, number, http, observer.as_ref()).await? {
                        Step::Download(prepared) => *prepared,
                        Step::Keep(_) => return Err(error),
                    };
                }
                Error::Digest { .. } | Error::Magic { .. } | Error::Changed { .. } => {
                    download::discard(&partial)?;
                    return Err(error);
                }
                error => return Err(error),
            }
        }
    }

    pub fn require_space(&self, needed_bytes: u64) -> Result<(), Error> {
        let free_bytes = self.store.free_bytes()?;
        if needed_bytes > free_bytes {
            let folder = self.store.folder().to_owned();
            return Err(Error::Space { folder, free_bytes, needed_bytes });
        }
        Ok(())
    }

    /// Gives the whole files their names and writes the record.
    pub fn finish(self, files: Vec<RecordedFile>, moved_bytes: u64) -> Result<Pulled, Error> {
        let path = self.path(1);
        let partials: Vec<(PathBuf, PathBuf)> = (1..=self.count)
            .map(|number| (self.store.partial(&self.name, number, self.count), self.path(number)))
            .filter(|(partial, _)| partial.exists())
            .collect();
        if let (Some(record), true) = (&self.record, partials.is_empty())
            && record.files == files
        {
            return Ok(Pulled { name: self.name, path, record: record.clone(), is_new: false, moved_bytes });
        }
        let pulled = httpdate::fmt_http_date(SystemTime::now());
        let record = Record { source: self.source.clone(), pulled, files };
        // A record must never describe files that are older than it: where none are, it may come first, and then an
        // end in the middle leaves nothing unexplained.
        if self.before.is_empty() {
            self.store.write_record(&self.name, &record)?;
        }
        // The first part last: a model is opened by it.
        for (partial, path) in partials.iter().rev() {
            std::fs::rename(partial, path).map_err(Error::file(path, "check that you may write there"))?;
            journal::remove(&download::journal_path(partial))?;
        }
        if !self.before.is_empty() {
            self.store.write_record(&self.name, &record)?;
        }
        let now: Vec<PathBuf> = (1..=self.count).map(|number| self.path(number)).collect();
        for old in self.before.iter().filter(|old| !now.contains(old)) {
            journal::remove(old)?;
        }
        self.store.sync()?;
        Ok(Pulled { name: self.name, path, record, is_new: true, moved_bytes })
    }
}

/// What to do for a file.
enum Step {
    Keep(RecordedFile),
    Download(Box<Prepared>),
}
