//! Names of models and their files. Servers choose some of them, so all are checked before they become paths.

use super::error::Error;

/// Longest name, in bytes: file systems take 255, and suffixes follow.
const NAME_BYTES_MAX: usize = 180;

/// Names that Windows keeps for devices; a folder of models may lie on a disk that is shared with it.
const RESERVED: &[&str] = &["con", "prn", "aux", "nul"];

/// `name` when it can be a file's name on any system and is nothing but a name.
///
/// # Errors
/// [`Error::Name`], when it is empty or too long, begins with something else than a letter or digit, holds other
/// characters than ASCII letters, digits and `. _ + -`, or is a name that a system reserves.
pub fn check(name: &str) -> Result<&str, Error> {
    let wrong = |problem| Err(Error::Name { name: name.chars().take(80).collect(), problem });
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return wrong("it has no character, or more than 180");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return wrong("it does not begin with a letter or a digit");
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c)) {
        return wrong("it holds other characters than names may have");
    }
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = |port: &str| stem.strip_prefix(port).is_some_and(|rest| rest.len() == 1 && rest != "0");
    if RESERVED.contains(&stem.as_str()) || numbered("com") || numbered("lpt") {
        return wrong("some systems reserve it for a device");
    }
    if name.ends_with('.') || name.ends_with(super::store::RECORD_SUFFIX) || split(name).is_some() {
        return wrong("it ends in what other files end in");
    }
    Ok(name)
}

/// Name of a model by the name of one of its files: without `.gguf` and, where it is split, without the part's number.
pub fn of_file(file: &str) -> Option<&str> {
    let stem = strip_gguf(file)?;
    Some(split(stem).map_or(stem, |(stem, _, _)| stem))
}

/// `file` without its ending, when that is `.gguf` in whatever case.
pub fn strip_gguf(file: &str) -> Option<&str> {
    let at = file.len().checked_sub(".gguf".len())?;
    file.get(at..)?.eq_ignore_ascii_case(".gguf").then(|| &file[..at])
}

/// Of `NAME-00002-of-00003`: the name, 2 and 3.
pub fn split(stem: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok());
    let (number, count) = (digits(number)??, digits(count)??);
    (!name.is_empty() && (1..=count).contains(&number)).then_some((name, number, count))
}

/// Name of the file of a model, or of its part `number` (from 1) of `count`.
pub fn file(name: &str, number: usize, count: usize) -> String {
    match count {
        1 => format!("{name}.gguf"),
        _ => format!("{name}-{number:05}-of-{count:05}.gguf"),
    }
}

/// Of `candidates`, those that look like `wanted`, the most similar first.
pub fn near<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>, count: usize) -> Vec<String> {
    let wanted = wanted.to_ascii_lowercase();
    let similarity = |name: &str| strsim::jaro_winkler(&wanted, &name.to_ascii_lowercase());
    let mut scored: Vec<(f64, &str)> = candidates.into_iter().map(|name| (similarity(name), name)).collect();
    scored.retain(|(score, _)| *score > 0.6);
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(count).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_pass() {
        for name in ["a", "Qwen3-0.6B-Q8_0", "x.y", "c++", "com", "com0", "console"] {
            assert_eq!(check(name).ok(), Some(name));
        }
        let long = "x".repeat(181);
        for name in
            ["", ".", "..", ".x", "-x", "a/b", "a\\b", "a:b", "a b", "é", "a\0", "NUL", "con.x", "COM1", "x.", &long]
        {
            check(name).expect_err(name);
        }
        check("x-00001-of-00002").expect_err("a part's name");
        check("x.hesper.json").expect_err("a record's name");
    }

    #[test]
    fn names_of_files() {
        assert_eq!(of_file("a.gguf"), Some("a"));
        assert_eq!(of_file("a.GGUF"), Some("a"));
        assert_eq!(of_file("a-00002-of-00003.gguf"), Some("a"));
        assert_eq!(of_file("a-00004-of-00003.gguf"), Some("a-00004-of-00003"));
        assert_eq!(of_file("a-1-of-3.gguf"), Some("a-1-of-3"));
        assert_eq!(of_file("a.bin"), None);
        assert_eq!(of_file("é"), None);
        assert_eq!(file("a", 2, 3), "a-00002-of-00003.gguf");
        assert_eq!(file("a", 1, 1), "a.gguf");
    }

    #[test]
    fn near_names() {
        assert_eq!(near("q4_k_n", ["Q8_0", "Q4_K_M", "zzz"], 1), ["Q4_K_M"]);
    }
}
