//! GGUF files: header, metadata, tensors, block formats. Little-endian versions 2 and 3, one file or split, mapped
//! into memory. Every size that a file states is checked against the file before it is used. It knows nothing of
//! architectures, tokenizers or devices.
//!
//! The format is read here and not by the `ggus` crate (0.5.1) because that one turns untrusted numbers into enums
//! unchecked, reserves memory for whatever count a file claims, panics on several types, and reads version 3 only.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

pub mod blocks;
mod cursor;
mod error;
pub mod inspect;
mod metadata;
mod split;
mod tensors;
mod value;
mod write;

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

pub use blocks::BlockFormat;
pub use error::{Error, Place};
pub use tensors::TensorInfo;
pub use value::{Array, Value, ValueKind};
pub use write::Writer;

use cursor::Cursor;
use error::Fault;
use metadata::Metadata;

/// Most metadata entries and tensors: about twenty times the largest seen, and little memory.
const METADATA_MAX: u64 = 65_536;
const TENSORS_MAX: u64 = 262_144;
const ALIGNMENT_DEFAULT: u32 = 32;
const ALIGNMENT_MAX: u32 = 65_536;

/// An open model file (or several, when split): metadata, tensor descriptions and the tensors' mapped bytes.
///
/// The file must not be changed while it is open: replace models by renaming, not by writing over them.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    alignment: usize,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Positions in `tensors`, ordered by name.
    by_name: Vec<u32>,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    file: String,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl Gguf {
    /// Maps and checks the file at `path`. Given the first file of a split model, opens the others beside it.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, Error> {
        let path = path.as_ref();
        let mut first = Gguf::open_one(path, 0)?;
        if let Some(split) = split::Split::of(&first)? {
            split.open_others(path, &mut first)?;
        }
        first.indexed()
    }

    /// Checks a whole file given as bytes; `name` stands for its path in errors. Split models need [`Gguf::open`].
    pub fn parse(name: &str, bytes: Vec<u8>) -> Result<Gguf, Error> {
        let gguf = Gguf::read(name.to_owned(), Bytes::Owned(bytes), 0)?;
        if split::Split::of(&gguf)?.is_some() {
            let problem = "it is one part of a split model, which can only be opened by its path".to_owned();
            return Err(Error::Split { file: gguf.file().to_owned(), problem });
        }
        gguf.indexed()
    }

    fn open_one(path: &Path, part: usize) -> Result<Gguf, Error> {
        let name = path.display().to_string();
        let failed = |source| Error::Open { file: name.clone(), source };
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?;
        if !size.is_file() {
            return Err(failed(std::io::Error::other("it is not a regular file")));
        }
        // An empty file cannot be mapped everywhere, and is reported as truncated by the parser.
        let bytes = if size.len() == 0 {
            Bytes::Owned(Vec::new())
        } else {
            // SAFETY: the mapping is read-only. Another process that truncates the file while it is open can end this
            // one, as it can with every mapped file; the type's documentation says not to.
            Bytes::Mapped(unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?)
        };
        Gguf::read(name, bytes, part)
    }

    fn read(file: String, bytes: Bytes, part: usize) -> Result<Gguf, Error> {
        match parse_part(&bytes, part) {
            Ok(Parsed { version, alignment, metadata, tensors }) => {
                let parts = vec![Part { file, bytes }];
                Ok(Gguf { version, alignment, metadata, tensors, by_name: Vec::new(), parts })
            }
            Err(fault) => Err(fault.in_file(&file)),
        }
    }

    /// Fills the index of tensor names, of all parts together.
    fn indexed(mut self) -> Result<Gguf, Error> {
        self.by_name = index_by_name(&self.tensors, |tensor| &tensor.name).map_err(|second| {
            let tensor = &self.tensors[second];
            let fault = Fault::damaged(tensor.offset, "the tensor's name occurs twice").in_tensor(&tensor.name);
            fault.in_file(&self.parts[tensor.part].file)
        })?;
        Ok(self)
    }

    /// The path (or name) that the model was opened by.
    pub fn file(&self) -> &str {
        &self.parts[0].file
    }

    /// 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Every tensor's data begins at a multiple of this many bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Number of files: 1 unless the model is split.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.len() as u64).sum()
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub fn opt_tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self.by_name.binary_search_by(|i| self.tensors[*i as usize].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[found] as usize])
    }

    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.opt_tensor(name)
            .ok_or_else(|| Error::MissingTensor { file: self.file().to_owned(), tensor: name.to_owned() })
    }

    /// The tensor's blocks, as they lie in the file: `info.bytes` bytes.
    ///
    /// # Panics
    /// When `info` is not one of this model's.
    pub fn bytes(&self, info: &TensorInfo) -> &[u8] {
        &self.parts[info.part].bytes[info.offset..][..info.bytes]
    }

    /// Says that a tensor's bytes are not needed for now: they no longer count as this process's memory. Read again, they
    /// come again from the file.
    ///
    /// # Panics
    /// When `info` is not one of this model's.
    pub fn set_aside(&self, info: &TensorInfo) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.parts[info.part].bytes {
            assert!(info.offset + info.bytes <= map.len(), "a tensor of another model");
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is read-only and of a file, so a page that is dropped comes back as it was.
            let advised = unsafe { map.unchecked_advise_range(advice, info.offset, info.bytes) };
            if let Err(error) = advised {
                tracing::debug!(%error, tensor = info.name, "its memory is kept");
            }
        }
    }
}

struct Parsed {
    version: u32,
    alignment: usize,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

/// Parses one file, or one part of a split one.
fn parse_part(bytes: &[u8], part: usize) -> Result<Parsed, Fault> {
    let mut cursor = Cursor::new(bytes, 0);
    let version = read_version(&mut cursor)?;
    let tensor_count = read_count(&mut cursor, "tensors", TENSORS_MAX, tensors::TENSOR_BYTES_MIN)?;
    let entry_count = read_count(&mut cursor, "metadata entries", METADATA_MAX, metadata::ENTRY_BYTES_MIN)?;
    let metadata = Metadata::read(&mut cursor, entry_count)?;
    let alignment = read_alignment(&metadata, bytes)?;
    let mut tensors = tensors::read(&mut cursor, tensor_count, part)?;
    tensors::place(&mut tensors, cursor.at(), alignment, bytes.len())?;
    Ok(Parsed { version, alignment, metadata, tensors })
}

fn read_version(cursor: &mut Cursor) -> Result<u32, Fault> {
    const OTHER: &str = "give the path of a model in the GGUF format";
    let magic = cursor.take(4, "the GGUF magic")?;
    if magic != b"GGUF" {
        let problem = format!("this is not a GGUF file: it begins with \"{}\"", magic.escape_ascii());
        return Err(Fault::unsupported(0, problem, OTHER));
    }
    match cursor.u32("the version")? {
        version @ 2..=3 => Ok(version),
        version if version.swap_bytes() <= 0xffff && version > 0xffff => {
            let problem = "this is a big-endian GGUF file; only little-endian ones are supported";
            Err(Fault::unsupported(4, problem, "convert the model again for little-endian machines"))
        }
        version => {
            let problem = format!("this is GGUF version {version}; versions 2 and 3 are supported");
            Err(Fault::unsupported(4, problem, "convert the model again with a current tool"))
        }
    }
}

/// A 64-bit count of things of at least `bytes_min` each, refused when the file cannot hold so many.
fn read_count(cursor: &mut Cursor, what: &str, count_max: u64, bytes_min: usize) -> Result<usize, Fault> {
    let at = cursor.at();
    let count = cursor.u64(&format!("the number of {what}"))?;
    if count > cursor.remaining() as u64 / bytes_min as u64 {
        let problem = format!("the header claims {count} {what}, more than the file's {} bytes hold", cursor.end());
        return Err(Fault::damaged(at, problem));
    }
    if count > count_max {
        let problem = format!("the header claims {count} {what}; at most {count_max} are allowed");
        return Err(Fault::damaged(at, problem));
    }
    Ok(count as usize)
}

fn read_alignment(metadata: &Metadata, bytes: &[u8]) -> Result<usize, Fault> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.value(bytes, KEY) else { return Ok(ALIGNMENT_DEFAULT as usize) };
    let fits = |alignment: &u32| alignment.is_power_of_two() && (8..=ALIGNMENT_MAX).contains(alignment);
    value.as_u32().filter(fits).map(|alignment| alignment as usize).ok_or_else(|| {
        let found = inspect::describe(value);
        let problem = format!("it is {found}, but a power of two of 8 to {ALIGNMENT_MAX} is needed");
        Fault::damaged(metadata.place(KEY), problem).in_key(KEY)
    })
}

/// Positions of `items` ordered by name, or the position of the second of two with the same name.
fn index_by_name<T>(items: &[T], name: impl Fn(&T) -> &String) -> Result<Vec<u32>, usize> {
    // METADATA_MAX and TENSORS_MAX (which holds for all parts of a split together) keep positions within u32.
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    order.sort_by_key(|i| name(&items[*i as usize]));
    match order.windows(2).find(|pair| name(&items[pair[0] as usize]) == name(&items[pair[1] as usize])) {
        Some(pair) => Err(pair[1] as usize),
        None => Ok(order),
    }
}
