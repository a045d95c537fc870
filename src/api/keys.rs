//! API keys: a name for each, so that logs and fair shares speak of people, and comparing in a time that tells nothing.

use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc};
use subtle::{Choice, ConstantTimeEq};

/// Most keys of a server: each request is compared with all of them.
pub const MAX_KEYS: usize = 10_000;
/// Longest name of a key.
const MAX_NAME: usize = 64;
/// Before a digest in a file of keys.
const DIGEST_PREFIX: &str = "sha256:";

/// One of which every request must bring. None: the server is open to all.
#[derive(Clone, Default)]
pub struct Keys(Vec<Key>);

#[derive(Clone)]
struct Key {
    name: Arc<str>,
    /// SHA-256 of the key. Keys are long and random, so a slow hash would protect nothing.
    digest: [u8; 32],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.name)).finish()
    }
}

/// What is wrong with a file of keys. It never repeats what might be a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("line {line}: {problem}")]
    Line { line: usize, problem: &'static str },
    #[error("it holds no key, which would open the server to everyone; write a line `name:key`")]
    Empty,
    #[error("it holds more than {MAX_KEYS} keys")]
    TooMany,
}

impl Keys {
    /// Keys without names of their own: they are called key-1, key-2, ….
    pub fn unnamed(keys: &[String]) -> Keys {
        let named = |(index, key): (usize, &String)| Key {
            name: format!("key-{}", index + 1).into(),
            digest: Sha256::digest(key.as_bytes()).into(),
        };
        Keys(keys.iter().enumerate().map(named).collect())
    }

    /// A line `name:key` for each key, or `name:sha256:` and the key's SHA-256 in 64 hexadecimal digits. Empty lines and
    /// those that begin with `#` are passed over. A name may have several keys, so that one can replace another.
    pub fn parse(text: &str) -> Result<Keys, KeysError> {
        let mut keys: Vec<Key> = Vec::new();
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let wrong = |problem| KeysError::Line { line, problem };
            let (name, key) = content.split_once(':').ok_or(wrong("this is no `name:key`"))?;
            let (name, key) = (name.trim(), key.trim());
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(wrong("a name has 1 to 64 printable ASCII characters and no space"));
            }
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(wrong("a key has printable ASCII characters and no space"));
            }
            let digest = match key.strip_prefix(DIGEST_PREFIX) {
                Some(digits) => hexadecimal(digits).ok_or(wrong("a sha256 has 64 hexadecimal digits"))?,
                None => Sha256::digest(key.as_bytes()).into(),
            };
            if keys.iter().any(|key| key.digest == digest) {
                return Err(wrong("this key stands in the file twice"));
            }
            if keys.len() == MAX_KEYS {
                return Err(KeysError::TooMany);
            }
            keys.push(Key { name: name.into(), digest });
        }
        if keys.is_empty() { Err(KeysError::Empty) } else { Ok(Keys(keys)) }
    }

    /// These and `others`.
    pub fn and(mut self, others: Keys) -> Keys {
        self.0.extend(others.0);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of the key that was given. The time depends on its length and on how many keys there are.
    pub fn name_of(&self, given: &[u8]) -> Option<Arc<str>> {
        let digest: [u8; 32] = Sha256::digest(given).into();
        let mut found = None;
        for key in &self.0 {
            let equal: Choice = key.digest.ct_eq(&digest);
            if equal.into() {
                found = Some(&key.name);
            }
        }
        found.cloned()
    }
}

fn hexadecimal(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, place) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[place..place + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_equal_only_as_a_whole() {
        let keys = Keys::unnamed(&["alpha".to_owned(), "beta".to_owned()]);
        let name = |given: &str| keys.name_of(given.as_bytes()).map(|name| name.to_string());
        assert_eq!((name("alpha"), name("beta")), (Some("key-1".to_owned()), Some("key-2".to_owned())));
        for wrong in ["alph", "alphabet", "", "ALPHA", "gamma"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
        assert!(Keys::default().name_of(b"").is_none());
    }

    #[test]
    fn a_file_names_keys_or_their_digests() {
        // printf beta | sha256sum
        let beta = "f44e64e75f3948e9f73f8dfa94721c4ce8cbb4f265c4790c702b2d41cfbf2753";
        let text = format!("# people\n\nann:alpha\r\n  bob : sha256:{beta}\nann:se:cond\n");
        let keys = Keys::parse(&text).expect("keys");
        let name = |given: &str| keys.name_of(given.as_bytes()).map(|name| name.to_string());
        assert_eq!(name("alpha").as_deref(), Some("ann"));
        assert_eq!(name("beta").as_deref(), Some("bob"));
        assert_eq!(name("se:cond").as_deref(), Some("ann"));
        assert_eq!(name(&format!("sha256:{beta}")), None, "a digest is no key");
        assert!(!format!("{keys:?}").contains("alpha"));
        for (text, line) in
            [("a:b\nc", 2), (":b", 1), ("a:", 1), ("a:b c", 1), ("a b:c", 1), ("é:x", 1), ("a:x\nb:x", 2)]
        {
            assert!(matches!(Keys::parse(text), Err(KeysError::Line { line: at, .. }) if at == line), "{text:?}");
        }
        assert!(Keys::parse("a:sha256:12").is_err() && Keys::parse(&format!("a:sha256:{}é", "0".repeat(62))).is_err());
        assert_eq!(Keys::parse("# nothing\n").unwrap_err(), KeysError::Empty);
    }

    proptest! {
        /// Whatever is read is no panic, and an error does not repeat it.
        #[test]
        fn no_file_panics(text in "([a-z:#é ]{0,20}\n){0,4}", secret in "[A-Z]{12}") {
            let _ = Keys::parse(&text);
            if let Err(error) = Keys::parse(&format!("{text}\n{secret}")) {
                prop_assert!(!error.to_string().contains(&secret));
            }
        }
    }
}
