//! Reads GBNF. It knows nothing of what becomes of the rules.

use super::bytes::{Facts, rule_facts};
use super::{DEPTH_MAX, Node, REPEAT_MAX, RULES_MAX};
use std::collections::HashMap;

/// The rules by number, of which the first is `root`.
pub(super) fn rules(source: &str, token: &dyn Fn(&str) -> Option<u32>) -> Result<Vec<Node>, String> {
    let (names, numbers, rules) = (Vec::new(), HashMap::new(), Vec::new());
    let mut reader = Reader { source, token, at: 0, depth: 0, names, numbers, rules };
    reader.number("root")?;
    reader.space(true);
    while reader.at < source.len() {
        reader.rule()?;
        reader.space(true);
    }
    let names = &reader.names;
    let missing = reader.rules.iter().position(Option::is_none);
    if let Some(index) = missing {
        return Err(format!("the grammar has no rule `{}`", names[index]));
    }
    let rules: Vec<Node> = reader.rules.into_iter().flatten().collect();
    match left_recursion(&rules) {
        Some(index) => Err(format!("the rule `{}` begins with itself, which GBNF does not allow", names[index])),
        None => Ok(rules),
    }
}

struct Reader<'s> {
    source: &'s str,
    token: &'s dyn Fn(&str) -> Option<u32>,
    at: usize,
    depth: usize,
    names: Vec<String>,
    numbers: HashMap<String, usize>,
    rules: Vec<Option<Node>>,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn error<T>(&self, message: impl std::fmt::Display) -> Result<T, String> {
        let line = self.source[..self.at].matches('\n').count() + 1;
        Err(format!("line {line}: {message}"))
    }

    /// Skips spaces and comments, and line ends where they mean nothing.
    fn space(&mut self, lines: bool) {
        while let Some(next) = self.peek() {
            match next {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if lines => self.at += 1,
                '#' => self.at += self.rest().find(['\r', '\n']).unwrap_or(self.rest().len()),
                _ => break,
            }
        }
    }

    fn number(&mut self, name: &str) -> Result<usize, String> {
        if let Some(&number) = self.numbers.get(name) {
            return Ok(number);
        }
        if self.names.len() == RULES_MAX {
            return self.error(format!("the grammar has more than {RULES_MAX} rules"));
        }
        let number = self.names.len();
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        self.rules.push(None);
        Ok(number)
    }

    fn name(&mut self) -> Option<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let end = self.rest().find(|c| !allowed(c)).unwrap_or(self.rest().len());
        let name = self.rest()[..end].to_owned();
        self.at += end;
        (!name.is_empty()).then_some(name)
    }

    fn rule(&mut self) -> Result<(), String> {
        let Some(name) = self.name() else { return self.error("the name of a rule is expected") };
        self.space(false);
        if !self.take("::=") {
            return self.error(format!("`::=` is expected after `{name}`"));
        }
        self.space(true);
        let number = self.number(&name)?;
        if self.rules[number].is_some() {
            return self.error(format!("the rule `{name}` is given twice"));
        }
        let node = self.either(false)?;
        self.rules[number] = Some(node);
        match self.peek() {
            None | Some('\r' | '\n') => Ok(()),
            Some(other) => self.error(format!("a line end is expected after the rule `{name}`, not {other:?}")),
        }
    }

    fn either(&mut self, nested: bool) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.error(format!("groups are nested deeper than {DEPTH_MAX}"));
        }
        let mut options = vec![self.sequence(nested)?];
        while self.take("|") {
            self.space(true);
            options.push(self.sequence(nested)?);
        }
        self.depth -= 1;
        Ok(if options.len() == 1 { options.remove(0) } else { Node::Either(options) })
    }

    fn sequence(&mut self, nested: bool) -> Result<Node, String> {
        let mut items: Vec<Node> = Vec::new();
        loop {
            let item = match self.peek() {
                Some('"') => self.text()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.at += 1;
                    Node::Class(vec![('\0', char::MAX)])
                }
                Some('(') => {
                    self.at += 1;
                    self.space(true);
                    let inner = self.either(true)?;
                    if !self.take(")") {
                        return self.error("`)` is expected");
                    }
                    inner
                }
                Some('<' | '!') => self.token()?,
                Some(c) if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') => {
                    let name = self.name().unwrap_or_default();
                    Node::Rule(self.number(&name)?)
                }
                _ => break,
            };
            let item = self.repetition(item)?;
            items.push(item);
            self.space(nested);
        }
        Ok(if items.len() == 1 { items.remove(0) } else { Node::Sequence(items) })
    }

    fn repetition(&mut self, node: Node) -> Result<Node, String> {
        let (least, most) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let Some(end) = self.rest().find('}') else { return self.error("`}` is expected") };
                let range = self.rest()[1..end].to_owned();
                let number = |text: &str| text.trim().parse::<u32>().ok().filter(|count| *count <= REPEAT_MAX);
                let read = match range.split_once(',') {
                    None => number(&range).map(|count| (count, Some(count))),
                    Some((least, most)) if most.trim().is_empty() => number(least).map(|least| (least, None)),
                    Some((least, most)) => number(least).zip(number(most).map(Some)),
                };
                let read = read.filter(|(least, most)| most.is_none_or(|most| *least <= most));
                let Some(read) = read else {
                    return self.error(format!("`{{{range}}}` is no range of numbers up to {REPEAT_MAX}"));
                };
                self.at += end;
                read
            }
            _ => return Ok(node),
        };
        self.at += 1;
        self.repetition(Node::Repeat { node: Box::new(node), least, most })
    }

    fn text(&mut self) -> Result<Node, String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                None | Some('\r' | '\n') => return self.error("a closing `\"` is missing"),
                Some('"') => {
                    self.at += 1;
                    return Ok(Node::Text(text));
                }
                Some(_) => text.push(self.character()?),
            }
        }
    }

    fn class(&mut self) -> Result<Node, String> {
        self.at += 1;
        let negated = self.take("^");
        let mut ranges: Vec<(char, char)> = Vec::new();
        loop {
            match self.peek() {
                None | Some('\r' | '\n') => return self.error("a closing `]` is missing"),
                Some(']') => break,
                Some(_) => {}
            }
            let first = self.character()?;
            let last = if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                self.character()?
            } else {
                first
            };
            if last < first {
                return self.error(format!("the range from {first:?} to {last:?} is empty"));
            }
            ranges.push((first, last));
        }
        self.at += 1;
        let ranges = if negated { others(ranges) } else { ranges };
        if ranges.is_empty() {
            return self.error("a class that no character is in");
        }
        Ok(Node::Class(ranges))
    }

    /// One character, perhaps by an escape.
    fn character(&mut self) -> Result<char, String> {
        let Some(first) = self.peek() else { return self.error("a character is expected") };
        self.at += first.len_utf8();
        if first != '\\' {
            return Ok(first);
        }
        let Some(kind) = self.peek() else { return self.error("an escape is not complete") };
        self.at += kind.len_utf8();
        let digits = match kind {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '\\' | '"' | '[' | ']' | '-' | '^' => return Ok(kind),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => return self.error(format!("the escape `\\{other}` is not known")),
        };
        let code = self.rest().get(..digits).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = code.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
        let Some(code) = code else {
            return self.error(format!("`\\{kind}` needs {digits} hexadecimal digits that name a character"));
        };
        self.at += digits;
        Ok(code)
    }

    /// `<[id]>`, `<text>`, or either behind `!`.
    fn token(&mut self) -> Result<Node, String> {
        let negated = self.take("!");
        let end = self.rest().find('>').filter(|_| self.rest().starts_with('<'));
        let Some(end) = end else { return self.error("a token such as `<[123]>` or `<think>` is expected") };
        let text = self.rest()[..=end].to_owned();
        let id = match text.strip_prefix("<[").and_then(|rest| rest.strip_suffix("]>")) {
            None => (self.token)(&text),
            Some(id) => id.parse().ok(),
        };
        let Some(id) = id else { return self.error(format!("`{text}` is no token of this model")) };
        self.at += end + 1;
        Ok(Node::Token { id, negated })
    }
}

/// All characters outside `ranges`.
fn others(mut ranges: Vec<(char, char)>) -> Vec<(char, char)> {
    ranges.sort_unstable();
    let mut others = Vec::new();
    let mut next = 0u32;
    for (first, last) in ranges {
        if (first as u32) > next {
            others.push((next, first as u32 - 1));
        }
        next = next.max(last as u32 + 1);
    }
    if next <= char::MAX as u32 {
        others.push((next, char::MAX as u32));
    }
    // Between the surrogates there are no characters.
    let low = |code: u32| char::from_u32(if (0xd800..0xe000).contains(&code) { 0xe000 } else { code });
    let high = |code: u32| char::from_u32(if (0xd800..0xe000).contains(&code) { 0xd7ff } else { code });
    others.into_iter().filter_map(|(first, last)| low(first).zip(high(last))).filter(|(a, b)| a <= b).collect()
}

/// A rule that can begin with itself before any character was read.
fn left_recursion(rules: &[Node]) -> Option<usize> {
    let facts = rule_facts(rules);
    let mut begins = vec![Vec::new(); rules.len()];
    for (rule, begins) in rules.iter().zip(&mut begins) {
        leftmost(rule, &facts, begins);
    }
    (0..rules.len()).find(|&start| {
        let mut seen = vec![false; rules.len()];
        let mut waiting = begins[start].clone();
        while let Some(rule) = waiting.pop() {
            if !std::mem::replace(&mut seen[rule], true) {
                waiting.extend(&begins[rule]);
            }
        }
        seen[start]
    })
}

/// Collects the rules that a node may begin with.
fn leftmost(node: &Node, facts: &[Facts], into: &mut Vec<usize>) {
    match node {
        Node::Text(_) | Node::Class(_) | Node::Token { .. } => {}
        Node::Rule(rule) => into.push(*rule),
        Node::Sequence(items) => {
            for item in items {
                leftmost(item, facts, into);
                if !Facts::of(item, facts).empty {
                    break;
                }
            }
        }
        Node::Either(options) => options.iter().for_each(|option| leftmost(option, facts, into)),
        Node::Repeat { node, .. } => leftmost(node, facts, into),
    }
}
