//! Random numbers and the identifiers made of them. None is a secret.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::{SystemTime, UNIX_EPOCH},
};

/// 64 random bits, from the keys that the standard library draws for its hash maps.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// `prefix` and 24 random hexadecimal digits.
pub fn identifier(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", random(), random() as u32)
}

/// 9 letters and digits: what the templates of Mistral's models take as the id of a call.
pub fn call_identifier() -> String {
    format!("{:016x}", random())[..9].to_owned()
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |duration| duration.as_secs())
}

/// A short name for everything that an answer depends on besides its request (FNV-1a).
pub fn fingerprint(parts: &[&str]) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = parts.iter().flat_map(|part| part.bytes().chain([0])).fold(0xcbf2_9ce4_8422_2325, step);
    format!("fp_{:010x}", hash >> 24)
}
