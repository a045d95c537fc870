//! Reads Rust and GLSL as text: what is code and what is not, where functions begin and end, which modules are named.
//! It is no parser; it knows brackets, words and literals, and no rule.

use std::path::{Path, PathBuf};

/// A source file: its path below the repository, its text, and the text with comments and literals blanked out.
pub struct Source {
    pub path: PathBuf,
    pub text: String,
    pub code: String,
}

impl Source {
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Source {
        let text = text.into();
        Source { path: path.into(), code: blank(&text), text }
    }

    pub fn extension(&self) -> &str {
        self.path.extension().and_then(|extension| extension.to_str()).unwrap_or("")
    }

    pub fn is_shader(&self) -> bool {
        matches!(self.extension(), "comp" | "glsl")
    }

    /// The top-level module of `src/` that this file is of: `src/gpu/memory.rs` is of `gpu`.
    pub fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src").ok()?;
        Path::new(below.components().next()?.as_os_str()).file_stem()?.to_str()
    }

    pub fn at(&self, offset: usize, rule: &str) -> String {
        let line = self.code[..offset].matches('\n').count() + 1;
        format!("{}:{line}: {rule}", self.path.display())
    }
}

/// The text with comments, strings and characters replaced by spaces, byte for byte, newlines kept.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole characters are replaced by spaces")
}

/// Where the comment, string or character that begins at `at` ends; `at` itself when none begins there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |needle: &[u8]| rest.windows(needle.len()).position(|window| window == needle);
    let starts_word = at == 0 || !is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => at + find(b"\n").unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment_length(rest),
        [b'r', b'"' | b'#', ..] if starts_word => at + raw_string_length(rest).unwrap_or(0),
        [b'b', b'r', ..] if starts_word => at + raw_string_length(&rest[1..]).map_or(0, |length| length + 1),
        [b'"', ..] => at + quoted_length(rest),
        [b'\'', b'\\', ..] => at + quoted_length(rest),
        [b'\'', ..] => at + character_length(rest).unwrap_or(0),
        _ => at,
    }
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn raw_string_length(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    let body = rest.get(1 + hashes..)?.strip_prefix(b"\"")?;
    let close: Vec<u8> = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let end = body.windows(close.len()).position(|window| window == close)?;
    Some(2 + hashes + end + close.len())
}

fn quoted_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != rest[0] {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// A quoted character, but no lifetime: a closing quote follows exactly one character.
fn character_length(rest: &[u8]) -> Option<usize> {
    let character = (1..=4).find_map(|length| std::str::from_utf8(rest.get(1..1 + length)?).ok())?;
    (rest.get(1 + character.len()) == Some(&b'\'')).then_some(character.len() + 2)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The identifier that begins at `at`, which may be empty.
fn word_at(code: &str, at: usize) -> &str {
    let end = code[at..].bytes().position(|byte| !is_word(byte)).map_or(code.len(), |length| at + length);
    &code[at..end]
}

/// Offsets at which `word` stands as a word of its own.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| (at == 0 || !is_word(code.as_bytes()[at - 1])) && word_at(code, at) == word)
}

fn skip_spaces(code: &str, at: usize) -> usize {
    at + (code[at..].len() - code[at..].trim_start().len())
}

/// The offset of the bracket that closes the one at `open`.
fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Name, start and end offset of every function with a body.
pub fn functions(source: &Source) -> Vec<(String, usize, usize)> {
    if source.is_shader() { shader_functions(&source.code) } else { rust_functions(&source.code) }
}

fn rust_functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for start in words(code, "fn") {
        let name = word_at(code, skip_spaces(code, start + 2));
        let mut at = start;
        while !name.is_empty() && at < code.len() {
            match code.as_bytes()[at] {
                b'(' | b'[' => at = closing(code, at).unwrap_or(code.len()),
                b'{' => {
                    found.push((name.to_string(), start, closing(code, at).unwrap_or(code.len())));
                    break;
                }
                b';' => break,
                _ => {}
            }
            at += 1;
        }
    }
    found
}

/// In GLSL a body is an outermost brace after a closing parenthesis; the name stands before the opening one.
fn shader_functions(code: &str) -> Vec<(String, usize, usize)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(open) = code[at..].find('{').map(|distance| at + distance) {
        let end = closing(code, open).unwrap_or(code.len());
        let before = code[at..open].trim_end();
        if before.ends_with(')') {
            let start = at + before.rfind([';', '}']).map_or(0, |separator| separator + 1);
            let head = code[start..open].trim_start();
            let name = head.split('(').next().unwrap_or("").split_whitespace().last().unwrap_or("");
            found.push((name.to_string(), open - head.len(), end));
        }
        at = (end + 1).min(code.len());
    }
    found
}

/// Offset and name of every top-level module that a file names, by `crate::` or by enough `super::`.
pub fn imports(source: &Source) -> Vec<(usize, String)> {
    let code = &source.code;
    let mut found = Vec::new();
    for start in words(code, "crate").chain(words(code, "hesper")) {
        if let Some(path) =
            code[start..].split_once("::").filter(|(head, _)| !head.contains(|c: char| !c.is_alphabetic()))
        {
            let after = code.len() - path.1.len();
            found.extend(heads(code, after).into_iter().map(|name| (start, name)));
        }
    }
    let depth_of_file = module_depth(&source.path);
    for start in words(code, "super").filter(|&start| !code[..start].ends_with("super::")) {
        let mut at = start;
        let mut steps = 0;
        while code[at..].starts_with("super::") {
            (at, steps) = (at + "super::".len(), steps + 1);
        }
        if steps > 0 && steps == depth_of_file + inline_depth(code, start) {
            found.extend(heads(code, at).into_iter().map(|name| (start, name)));
        }
    }
    found
}

/// First names of the path or the group of paths that begins at `at`: `{a::b, c}` gives a and c.
fn heads(code: &str, at: usize) -> Vec<String> {
    if !code[at..].starts_with('{') {
        return vec![word_at(code, at).to_string()];
    }
    let end = closing(code, at).unwrap_or(code.len() - 1);
    let (mut names, mut at) = (Vec::new(), at + 1);
    while at < end {
        at = skip_spaces(code, at);
        names.push(word_at(code, at).to_string());
        while at < end && code.as_bytes()[at] != b',' {
            at = if code.as_bytes()[at] == b'{' { closing(code, at).unwrap_or(end) } else { at } + 1;
        }
        at += 1;
    }
    names.retain(|name| !name.is_empty());
    names
}

/// How far below the crate a file's module lies: `src/gpu/mod.rs` 1, `src/gpu/memory.rs` 2.
fn module_depth(path: &Path) -> usize {
    let is_mod = path.file_name().is_some_and(|name| name == "mod.rs");
    path.strip_prefix("src").map_or(0, |below| below.components().count() - usize::from(is_mod))
}

/// How many `mod name { … }` are open at an offset.
fn inline_depth(code: &str, offset: usize) -> usize {
    let opened = words(&code[..offset], "mod").filter_map(|start| {
        let name = skip_spaces(code, start + 3);
        let open = skip_spaces(code, name + word_at(code, name).len());
        code[open..].starts_with('{').then(|| closing(code, open).unwrap_or(code.len()))
    });
    opened.filter(|end| *end > offset).count()
}

#[test]
fn literals_and_comments_are_blank() {
    let text = "a\"}\\\"\" 'x' '\\'' &'a b r#\"\"}\"# br\"{\" // {\n/* { /* */ é */ c 'é' d";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "&'a", "b", "c", "d"]);
    assert_eq!(code.matches('\n').count(), 1);
}
