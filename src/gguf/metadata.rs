//! The metadata section: parsed into a list of keys with the place of each value, and typed getters on [`Gguf`]. It
//! knows no key's meaning but `general.alignment`'s name, which the caller reads.

use super::cursor::Cursor;
use super::error::{Error, Fault};
use super::value::{Array, Value, ValueKind};
use super::{Gguf, index_by_name};

/// Longest key, by the specification.
const KEY_BYTES_MAX: usize = 65_535;
/// Smallest entry: a one-letter key, its length, the kind, a one-byte value.
pub(super) const ENTRY_BYTES_MIN: usize = 8 + 1 + 4 + 1;

/// The metadata of one file. Values stay in the file's bytes.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    entries: Vec<Entry>,
    /// Positions in `entries`, ordered by key.
    by_key: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    key: String,
    kind: ValueKind,
    /// Where a fixed-size value, a string's text or an array's first element begins in the file, and its bytes.
    at: usize,
    bytes: usize,
    /// Of arrays only.
    element: ValueKind,
    count: usize,
}

impl Metadata {
    /// Reads `count` entries; the caller has checked that the file is long enough to hold so many.
    pub fn read(cursor: &mut Cursor, count: usize) -> Result<Metadata, Fault> {
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(read_entry(cursor)?);
        }
        let by_key = index_by_name(&entries, |entry| &entry.key).map_err(|second| {
            let entry: &Entry = &entries[second];
            Fault::damaged(entry.at, "the key occurs twice").in_key(&entry.key)
        })?;
        Ok(Metadata { entries, by_key })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        let found = self.by_key.binary_search_by(|i| self.entries[*i as usize].key.as_str().cmp(key)).ok()?;
        Some(&self.entries[self.by_key[found] as usize])
    }

    /// The value of `key` in `file`, the bytes that this metadata was read from.
    pub fn value<'a>(&self, file: &'a [u8], key: &str) -> Option<Value<'a>> {
        self.find(key)?.value(file)
    }

    /// Where the value of `key` begins.
    pub fn place(&self, key: &str) -> usize {
        self.find(key).map_or(0, |entry| entry.at)
    }

    pub fn iter<'a>(&'a self, file: &'a [u8]) -> impl Iterator<Item = (&'a str, ValueKind, Value<'a>)> {
        self.entries.iter().filter_map(|entry| Some((entry.key.as_str(), entry.kind, entry.value(file)?)))
    }
}

impl Entry {
    fn value<'a>(&self, file: &'a [u8]) -> Option<Value<'a>> {
        let bytes = file.get(self.at..)?.get(..self.bytes)?;
        match self.kind {
            ValueKind::String => std::str::from_utf8(bytes).ok().map(Value::String),
            ValueKind::Array => Some(Value::Array(Array { element: self.element, count: self.count, bytes })),
            kind => Value::fixed(kind, bytes),
        }
    }
}

fn read_entry(cursor: &mut Cursor) -> Result<Entry, Fault> {
    let key = cursor.name("a metadata key", KEY_BYTES_MAX)?;
    read_value(cursor, key).map_err(|fault| fault.in_key(key))
}

fn read_value(cursor: &mut Cursor, key: &str) -> Result<Entry, Fault> {
    let kind = read_kind(cursor)?;
    let mut entry = Entry { key: key.to_owned(), kind, at: cursor.at(), bytes: 0, element: kind, count: 0 };
    match (kind, kind.fixed_bytes()) {
        (ValueKind::Array, _) => {
            entry.element = read_kind(cursor)?;
            let count = cursor.u64("the array's length")?;
            entry.at = cursor.at();
            read_elements(cursor, entry.element, count)?;
            // The elements were all read, so their count is below the file's size.
            entry.count = count as usize;
        }
        (_, Some(bytes)) => check_bools(kind, cursor.take(bytes as u64, "the value")?, entry.at)?,
        (_, None) => {
            let text = cursor.string("the string")?;
            entry.at = cursor.at() - text.len();
        }
    }
    entry.bytes = cursor.at() - entry.at;
    Ok(entry)
}

fn read_kind(cursor: &mut Cursor) -> Result<ValueKind, Fault> {
    let at = cursor.at();
    let id = cursor.u32("the value's type")?;
    ValueKind::from_id(id).ok_or_else(|| Fault::damaged(at, format!("value type {id} does not exist (0 to 12 do)")))
}

/// Walks over an array's elements, checking each.
fn read_elements(cursor: &mut Cursor, element: ValueKind, count: u64) -> Result<(), Fault> {
    let start = cursor.at();
    match element.fixed_bytes() {
        Some(bytes) => {
            let total = count.saturating_mul(bytes as u64);
            check_bools(element, cursor.take(total, &format!("an array of {count} {}", element.name()))?, start)
        }
        None if element == ValueKind::Array => {
            Err(Fault::unsupported(start, "arrays of arrays are not supported", "convert the model without this key"))
        }
        None => {
            // Each string has at least its 8-byte length: refuse an impossible count before walking.
            if count > cursor.remaining() as u64 / 8 {
                let problem = format!("an array of {count} strings does not fit the {} bytes left", cursor.remaining());
                return Err(Fault::damaged(start, problem));
            }
            (0..count).try_for_each(|_| cursor.string("a string of the array").map(drop))
        }
    }
}

fn check_bools(kind: ValueKind, bytes: &[u8], start: usize) -> Result<(), Fault> {
    match bytes.iter().position(|byte| *byte > 1) {
        Some(i) if kind == ValueKind::Bool => {
            Err(Fault::damaged(start + i, format!("a bool is {}, not 0 or 1", bytes[i])))
        }
        _ => Ok(()),
    }
}

/// Typed getters. The `opt_` forms give none where the key is missing; the others an [`Error::MissingKey`]. All give
/// [`Error::WrongKind`] where the value is of another kind. Integers of any width and sign are taken if they fit.
impl Gguf {
    /// The value as it is, for keys that may hold more than one kind.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        self.metadata.value(&self.parts[0].bytes, key)
    }

    /// Keys, kinds in the file, and values, in file order.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, ValueKind, Value<'_>)> {
        self.metadata.iter(&self.parts[0].bytes)
    }

    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "an integer of 0 to 4294967295", Value::as_u32)
    }

    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        self.required(key, self.opt_u32(key)?)
    }

    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.typed(key, "an integer that is not negative", Value::as_u64)
    }

    pub fn u64(&self, key: &str) -> Result<u64, Error> {
        self.required(key, self.opt_u64(key)?)
    }

    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "a float", Value::as_f32)
    }

    pub fn f32(&self, key: &str) -> Result<f32, Error> {
        self.required(key, self.opt_f32(key)?)
    }

    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a bool", Value::as_bool)
    }

    pub fn bool(&self, key: &str) -> Result<bool, Error> {
        self.required(key, self.opt_bool(key)?)
    }

    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn str(&self, key: &str) -> Result<&str, Error> {
        self.required(key, self.opt_str(key)?)
    }

    pub fn opt_string_array(&self, key: &str) -> Result<Option<Vec<&str>>, Error> {
        self.typed(key, "an array of strings", |value| elements(value, Value::as_str))
    }

    pub fn string_array(&self, key: &str) -> Result<Vec<&str>, Error> {
        self.required(key, self.opt_string_array(key)?)
    }

    pub fn opt_f32_array(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        self.typed(key, "an array of floats", |value| elements(value, Value::as_f32))
    }

    pub fn f32_array(&self, key: &str) -> Result<Vec<f32>, Error> {
        self.required(key, self.opt_f32_array(key)?)
    }

    pub fn opt_i32_array(&self, key: &str) -> Result<Option<Vec<i32>>, Error> {
        self.typed(key, "an array of integers of -2147483648 to 2147483647", |value| elements(value, Value::as_i32))
    }

    pub fn i32_array(&self, key: &str) -> Result<Vec<i32>, Error> {
        self.required(key, self.opt_i32_array(key)?)
    }

    pub fn opt_u32_array(&self, key: &str) -> Result<Option<Vec<u32>>, Error> {
        self.typed(key, "an array of integers of 0 to 4294967295", |value| elements(value, Value::as_u32))
    }

    pub fn u32_array(&self, key: &str) -> Result<Vec<u32>, Error> {
        self.required(key, self.opt_u32_array(key)?)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| Error::WrongKind {
            file: self.file().to_owned(),
            key: key.to_owned(),
            found: super::inspect::describe(value),
            wanted,
        })
    }

    fn required<T>(&self, key: &str, found: Option<T>) -> Result<T, Error> {
        found.ok_or_else(|| Error::MissingKey { file: self.file().to_owned(), key: key.to_owned() })
    }
}

fn elements<'a, T>(value: Value<'a>, convert: impl Fn(Value<'a>) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(convert).collect()
}
