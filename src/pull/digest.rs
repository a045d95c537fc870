//! SHA-256 of files, and the four bytes by which a GGUF file is known.

use super::error::Error;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK_BYTES: usize = 1 << 20;

/// Hashes a file that still grows: `ends` says again and again up to where it may be read. The digest in hexadecimal,
/// when `ends` has ended.
pub fn follow(file: &File, ends: impl Iterator<Item = u64>) -> io::Result<String> {
    let (mut hash, mut block, mut at) = (Sha256::new(), vec![0; BLOCK_BYTES], 0);
    for end in ends {
        while at < end {
            let length = (end - at).min(BLOCK_BYTES as u64) as usize;
            file.read_exact_at(&mut block[..length], at)?;
            hash.update(&block[..length]);
            at += length as u64;
        }
    }
    Ok(hexadecimal(&hash.finalize()))
}

pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `text` in lower case when it is a SHA-256 digest in hexadecimal.
pub fn parse(text: &str) -> Option<String> {
    (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

/// Refuses a file that does not begin as GGUF files do. A file of fewer than four bytes does not either.
pub fn check_magic(file: &File, path: &Path) -> Result<(), Error> {
    let mut begin = Vec::new();
    let mut four = [0; 4];
    match file.read_exact_at(&mut four, 0) {
        Ok(()) if four == *b"GGUF" => return Ok(()),
        Ok(()) => begin.extend(four),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(Error::file(path, "the disk may be damaged")(error)),
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = name.strip_suffix(".partial").unwrap_or(&name).to_owned();
    Err(Error::Magic { file, begin: begin.escape_ascii().to_string() })
}
