//! A bounded reader of little-endian numbers and strings: it never reads past the end and allocates nothing.

use super::error::Fault;

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Cursor<'a> {
        Cursor { bytes, at }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Bytes of the whole file.
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// The next `count` bytes; `what` names them in the error when the file ends before.
    pub fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], Fault> {
        if count > self.remaining() as u64 {
            let problem = format!("{what} needs {count} bytes, but only {} are left in the file", self.remaining());
            return Err(Fault::damaged(self.at, problem));
        }
        let start = self.at;
        self.at += count as usize;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A 64-bit length and that many bytes of UTF-8.
    pub fn string(&mut self, what: &str) -> Result<&'a str, Fault> {
        let length = self.u64(what)?;
        let start = self.at;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes)
            .map_err(|error| Fault::damaged(start + error.valid_up_to(), format!("{what} is not UTF-8 text")))
    }

    /// A string that must not be empty nor longer than `limit` bytes.
    pub fn name(&mut self, what: &str, limit: usize) -> Result<&'a str, Fault> {
        let start = self.at;
        let name = self.string(what)?;
        if name.is_empty() || name.len() > limit {
            let problem = format!("{what} is {} bytes long; 1 to {limit} are allowed", name.len());
            return Err(Fault::damaged(start, problem));
        }
        Ok(name)
    }
}
