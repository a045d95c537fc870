//! Models split over several files, `NAME-00001-of-00003.gguf` and so on. The first file has the metadata; each has
//! some of the tensors. Keys: `split.no` (from 0), `split.count`, `split.tensors.count`.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::{Gguf, TENSORS_MAX};

/// What the first file says of the whole.
pub(super) struct Split {
    count: u32,
    tensors: u64,
}

impl Split {
    /// The split that `gguf` is a part of, or none when it is whole. Its own position is not checked.
    pub fn of(gguf: &Gguf) -> Result<Option<Split>, Error> {
        let count = gguf.opt_u32("split.count")?.unwrap_or(1);
        if count <= 1 {
            return Ok(None);
        }
        let tensors = gguf.u64("split.tensors.count")?;
        // The file name has five digits; the specification's type has 16 bits.
        if count > 65_535 || tensors > TENSORS_MAX {
            return Err(problem(gguf, format!("it claims to be split into {count} files with {tensors} tensors")));
        }
        Ok(Some(Split { count, tensors }))
    }

    /// Opens the files after the first and adds their tensors to it.
    pub fn open_others(&self, path: &Path, first: &mut Gguf) -> Result<(), Error> {
        let number = first.u32("split.no")?;
        let stem = self.stem(path, number);
        if number != 0 {
            let name = stem.map_or_else(
                || format!("the one whose name ends in -00001-of-{:05}.gguf", self.count),
                |stem| stem.part(0, self.count).display().to_string(),
            );
            let text =
                format!("it is part {} of a model split into {}; open the first: {name}", number + 1, self.count);
            return Err(problem(first, text));
        }
        let stem = stem.ok_or_else(|| {
            let suffix = format!("-00001-of-{:05}.gguf", self.count);
            let text = format!("it is the first of {} files, whose name must end in {suffix}: rename it", self.count);
            problem(first, text)
        })?;
        for number in 1..self.count {
            self.open_part(&stem.part(number, self.count), number, first)?;
        }
        if first.tensors.len() as u64 != self.tensors {
            let (found, wanted) = (first.tensors.len(), self.tensors);
            let text = format!("its {} files hold {found} tensors, but {wanted} belong to it", self.count);
            return Err(problem(first, format!("{text}; download them all again")));
        }
        Ok(())
    }

    fn open_part(&self, path: &Path, number: u32, first: &mut Gguf) -> Result<(), Error> {
        if !path.exists() {
            let text = format!("part {} of {} is missing; put it at {}", number + 1, self.count, path.display());
            return Err(problem(first, text));
        }
        let mut part = Gguf::open_one(path, first.parts.len())?;
        let found = (part.u32("split.no")?, part.u32("split.count")?);
        if found != (number, self.count) {
            let expected = format!("part {} of {}", number + 1, self.count);
            let found = format!("part {} of {}", u64::from(found.0) + 1, found.1);
            return Err(problem(&part, format!("its name says {expected}, its metadata {found}; download it again")));
        }
        if first.tensors.len() as u64 + part.tensors.len() as u64 > self.tensors {
            let text = format!("with it, the files hold more than the {} tensors of the model", self.tensors);
            return Err(problem(&part, format!("{text}; download it again")));
        }
        first.tensors.append(&mut part.tensors);
        first.parts.append(&mut part.parts);
        Ok(())
    }

    /// What the names of all parts have in common, or none when `path` is not named as part `number`.
    fn stem(&self, path: &Path, number: u32) -> Option<Stem> {
        let name = path.file_name()?.to_str()?;
        let suffix = format!("-{:05}-of-{:05}.gguf", u64::from(number) + 1, self.count);
        let prefix = name.strip_suffix(&suffix)?.to_owned();
        Some(Stem { folder: path.parent()?.to_owned(), prefix })
    }
}

struct Stem {
    folder: PathBuf,
    prefix: String,
}

impl Stem {
    fn part(&self, number: u32, count: u32) -> PathBuf {
        self.folder.join(format!("{}-{:05}-of-{count:05}.gguf", self.prefix, number + 1))
    }
}

fn problem(gguf: &Gguf, problem: String) -> Error {
    Error::Split { file: gguf.file().to_owned(), problem }
}
