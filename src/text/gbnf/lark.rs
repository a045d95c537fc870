//! Writes GBNF's rules as Lark. GBNF reads character by character, Lark by lexemes, each as long as it can be. The two
//! allow the same texts in three ways, of which the first that fits is taken:
//!
//! 1. A grammar without recursion is one lexeme.
//! 2. Where the next byte always tells how to go on, the pieces without recursion are lexemes.
//! 3. Else every character is a lexeme of its own; that is exact, and slower to follow.

use super::Node;
use super::bytes::{Bytes, Facts, rule_facts};
use std::fmt::Write;

/// The grammar for `rules`, of which the first is the root.
pub(super) fn write(rules: &[Node]) -> String {
    let regular = regular(rules);
    let mut out = String::new();
    for (number, rule) in rules.iter().enumerate().filter(|(number, _)| regular[*number]) {
        let _ = writeln!(out, "T{number}: {}", terminal(rule));
    }
    if regular[0] {
        return format!("start: T0\n{out}");
    }
    let facts = rule_facts(rules);
    let mut lexemes =
        Lexemes { facts: &facts, regular: &regular, follow: follow(rules, &facts), terminals: Vec::new() };
    let bodies: Option<Vec<String>> =
        rules.iter().enumerate().map(|(number, rule)| lexemes.emit(rule, lexemes.follow[number])).collect();
    let bodies = match bodies {
        Some(bodies) => {
            for (number, terminal) in lexemes.terminals.iter().enumerate() {
                let _ = writeln!(out, "L{number}: {terminal}");
            }
            bodies
        }
        None => rules.iter().map(characters).collect(),
    };
    for (number, body) in bodies.iter().enumerate() {
        let _ = writeln!(out, "r{number}: {body}");
    }
    format!("start: r0\n{out}")
}

/// Which rules neither recur nor name tokens.
fn regular(rules: &[Node]) -> Vec<bool> {
    let mut regular = vec![false; rules.len()];
    let mut changed = true;
    while changed {
        changed = false;
        // Rules mostly name later ones.
        for (number, rule) in rules.iter().enumerate().rev() {
            let now = regular[number] || is_regular(rule, &regular);
            changed |= std::mem::replace(&mut regular[number], now) != now;
        }
    }
    regular
}

fn is_regular(node: &Node, rules: &[bool]) -> bool {
    match node {
        Node::Text(_) | Node::Class(_) => true,
        Node::Token { .. } => false,
        Node::Rule(rule) => rules[*rule],
        Node::Sequence(items) | Node::Either(items) => items.iter().all(|item| is_regular(item, rules)),
        Node::Repeat { node, .. } => is_regular(node, rules),
    }
}

/// What may follow each rule.
fn follow(rules: &[Node], facts: &[Facts]) -> Vec<Bytes> {
    let mut follow = vec![Bytes::NONE; rules.len()];
    loop {
        let before = follow.clone();
        for (number, rule) in rules.iter().enumerate() {
            spread(rule, follow[number], facts, &mut follow);
        }
        if follow == before {
            return follow;
        }
    }
}

fn spread(node: &Node, after: Bytes, facts: &[Facts], follow: &mut [Bytes]) {
    match node {
        Node::Text(_) | Node::Class(_) | Node::Token { .. } => {}
        Node::Rule(rule) => follow[*rule] = follow[*rule].union(after),
        Node::Sequence(items) => {
            for (item, after) in items.iter().zip(afters(items, after, facts)) {
                spread(item, after, facts, follow);
            }
        }
        Node::Either(options) => options.iter().for_each(|option| spread(option, after, facts, follow)),
        Node::Repeat { node, .. } => spread(node, after.union(Facts::of(node, facts).first), facts, follow),
    }
}

/// What may follow each item of a sequence that `after` follows.
fn afters(items: &[Node], mut after: Bytes, facts: &[Facts]) -> Vec<Bytes> {
    let mut afters = vec![after; items.len()];
    for (index, item) in items.iter().enumerate().rev() {
        afters[index] = after;
        let facts = Facts::of(item, facts);
        after = if facts.empty { after.union(facts.first) } else { facts.first };
    }
    afters
}

/// The second way.
struct Lexemes<'g> {
    facts: &'g [Facts],
    regular: &'g [bool],
    follow: Vec<Bytes>,
    terminals: Vec<String>,
}

impl Lexemes<'_> {
    /// The node in a rule's body; `None` where the next byte does not tell how to go on.
    fn emit(&mut self, node: &Node, after: Bytes) -> Option<String> {
        let facts = Facts::of(node, self.facts);
        let told = !facts.extended.meets(after);
        match node {
            Node::Text(text) if text.is_empty() => Some("\"\"".to_owned()),
            Node::Token { .. } => Some(token(node)),
            _ if told && is_regular(node, self.regular) => {
                self.terminals.push(terminal(node));
                let name = format!("L{}", self.terminals.len() - 1);
                Some(if facts.empty { format!("({name})?") } else { name })
            }
            // Its body is written with all that may follow it anywhere.
            Node::Rule(rule) => told.then(|| format!("r{rule}")),
            Node::Sequence(items) => {
                let afters = afters(items, after, self.facts);
                let items: Option<Vec<String>> =
                    items.iter().zip(afters).map(|(item, after)| self.emit(item, after)).collect();
                Some(items?.join(" "))
            }
            Node::Either(options) => {
                let all: Vec<Facts> = options.iter().map(|option| Facts::of(option, self.facts)).collect();
                let empties = all.iter().filter(|facts| facts.empty).count();
                if !told || !Facts::are_apart(&all) || empties > 1 {
                    return None;
                }
                let options: Option<Vec<String>> = options.iter().map(|option| self.emit(option, after)).collect();
                Some(format!("({})", options?.join(" | ")))
            }
            Node::Repeat { node, least, most } => {
                let inner = Facts::of(node, self.facts);
                if !told || inner.empty || inner.extended.meets(inner.first) {
                    return None;
                }
                let inner = self.emit(node, after.union(inner.first))?;
                Some(repeated(&inner, *least, *most))
            }
            Node::Text(_) | Node::Class(_) => None,
        }
    }
}

/// The third way: the node with a lexeme for each character.
fn characters(node: &Node) -> String {
    match node {
        Node::Text(text) if text.is_empty() => "\"\"".to_owned(),
        Node::Text(text) => text.chars().map(|c| format!("/{}/", character(c))).collect::<Vec<String>>().join(" "),
        Node::Class(ranges) => class(ranges),
        Node::Rule(rule) => format!("r{rule}"),
        Node::Token { .. } => token(node),
        Node::Sequence(items) if items.is_empty() => "\"\"".to_owned(),
        Node::Sequence(items) => items.iter().map(characters).collect::<Vec<String>>().join(" "),
        Node::Either(options) => format!("({})", options.iter().map(characters).collect::<Vec<String>>().join(" | ")),
        Node::Repeat { node, least, most } => repeated(&characters(node), *least, *most),
    }
}

/// A node without recursion as a part of one lexeme.
fn terminal(node: &Node) -> String {
    match node {
        Node::Text(text) if text.is_empty() => "\"\"".to_owned(),
        Node::Text(text) => format!("/{}/", text.chars().map(character).collect::<String>()),
        Node::Class(ranges) => class(ranges),
        Node::Rule(rule) => format!("T{rule}"),
        Node::Token { .. } => token(node),
        Node::Sequence(items) if items.is_empty() => "\"\"".to_owned(),
        Node::Sequence(items) => items.iter().map(terminal).collect::<Vec<String>>().join(" "),
        Node::Either(options) => format!("({})", options.iter().map(terminal).collect::<Vec<String>>().join(" | ")),
        Node::Repeat { node, least, most } => repeated(&terminal(node), *least, *most),
    }
}

fn repeated(inner: &str, least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (_, Some(0)) => "\"\"".to_owned(),
        (0, None) => format!("({inner})*"),
        (1, None) => format!("({inner})+"),
        (0, Some(1)) => format!("({inner})?"),
        (least, None) => format!("({inner}){{{least}}} ({inner})*"),
        (least, Some(most)) => format!("({inner}){{{least},{most}}}"),
    }
}

fn token(node: &Node) -> String {
    match node {
        Node::Token { id, negated: false } => format!("<[{id}]>"),
        Node::Token { id, negated: true } => format!("<[^{id}]>"),
        _ => String::new(),
    }
}

fn class(ranges: &[(char, char)]) -> String {
    let range = |&(first, last): &(char, char)| format!("{}-{}", character(first), character(last));
    format!("/[{}]/", ranges.iter().map(range).collect::<String>())
}

/// A character in a regular expression, within a class or outside.
pub(super) fn character(character: char) -> String {
    match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' => character.to_string(),
        other => format!("\\x{{{:x}}}", other as u32),
    }
}
