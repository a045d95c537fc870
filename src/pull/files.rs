//! Models from files of this machine, which are copied.

use super::place::Place;
use super::store::{RecordedFile, Store};
use super::{Error, Observer, Options, Pulled, Source, digest, download, names};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::SystemTime;

/// Copies a file, or all parts of a split model, into the folder.
pub fn pull(
    path: &Path,
    name: Option<&str>,
    store: &Store,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Pulled, Error> {
    const ADVICE: &str = "check the path and that you may read it";
    let path = std::path::absolute(path).map_err(Error::file(path, ADVICE))?;
    let wrong = |problem: &str| Error::Reference { text: path.display().to_string(), problem: problem.to_owned() };
    let file = path.file_name().and_then(|file| file.to_str()).ok_or_else(|| wrong("it has no plain name"))?;
    let stem = names::strip_gguf(file).ok_or_else(|| wrong("it does not end in .gguf"))?;
    let (own, count) = names::split(stem).map_or((stem, 1), |(stem, _, count)| (stem, count as usize));
    let originals: Vec<PathBuf> = match count {
        1 => vec![path.clone()],
        _ => (1..=count).map(|number| path.with_file_name(names::file(own, number, count))).collect(),
    };
    let mut sizes = Vec::new();
    for original in &originals {
        let found = std::fs::metadata(original).map_err(Error::file(original, ADVICE))?;
        if !found.is_file() {
            return Err(Error::file(original, ADVICE)(std::io::Error::other("it is not a regular file")));
        }
        let changed = found.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        sizes.push((found.len(), changed.map(|time| format!("changed {} ns", time.as_nanos()))));
    }
    if options.sha256.is_some() && count > 1 {
        let what = format!("{} is one of {count} files", path.display());
        return Err(Error::Refused { what, advice: "leave --sha256 away".to_owned() });
    }
    let place = Place::take(store, name.unwrap_or(own), &Source::File(originals[0].clone()), count)?;
    let total = sizes.iter().map(|(bytes, _)| bytes).sum();
    place.require_space(total)?;
    observer.begin(Some(total), 0);
    let (mut records, mut moved_bytes) = (Vec::new(), 0);
    for ((original, (bytes, changed)), number) in originals.iter().zip(sizes).zip(1..) {
        if let Some(recorded) = place.unchanged(number, None, Some((Some(bytes), changed.as_deref()))) {
            records.push(recorded);
            continue;
        }
        let partial = store.partial(&place.name, number, count);
        download::discard(&partial)?;
        let sha256 = copy(original, &partial, observer)?;
        if let Some(wanted) = options.sha256.as_deref().filter(|wanted| !wanted.eq_ignore_ascii_case(&sha256)) {
            download::discard(&partial)?;
            return Err(Error::Digest { file: file.to_owned(), wanted: wanted.to_owned(), found: sha256 });
        }
        moved_bytes += bytes;
        let file = names::file(&place.name, number, count);
        records.push(RecordedFile { file, bytes, sha256, stated: options.sha256.is_some(), validator: changed });
    }
    place.finish(records, moved_bytes)
}

/// Copies a file and gives its digest.
fn copy(from: &Path, to: &Path, observer: &dyn Observer) -> Result<String, Error> {
    let mut source = File::open(from).map_err(Error::file(from, "check the path and that you may read it"))?;
    digest::check_magic(&source, from)?;
    let failed = |error| Error::file(to, "check the disk")(error);
    let target = File::options().create(true).truncate(true).read(true).write(true).open(to).map_err(failed)?;
    let (ends, hashed) = channel();
    let reader = target.try_clone().map_err(failed)?;
    std::thread::scope(|scope| {
        let hash = scope.spawn(move || digest::follow(&reader, hashed.into_iter()));
        let (mut block, mut at) = (vec![0; 1 << 20], 0);
        loop {
            let length = source.read(&mut block).map_err(Error::file(from, "the disk may be damaged"))?;
            if length == 0 {
                break;
            }
            target.write_all_at(&block[..length], at).map_err(failed)?;
            at += length as u64;
            observer.advance(length as u64);
            // The thread ends early only when it cannot read, which it says when it is joined.
            let _ = ends.send(at);
        }
        drop(ends);
        target.sync_all().map_err(failed)?;
        let hashed = hash.join().unwrap_or_else(|_| Err(std::io::Error::other("hashing it ended unexpectedly")));
        hashed.map_err(failed)
    })
}
