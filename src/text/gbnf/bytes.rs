//! What can be said of a rule by looking at bytes: with which it begins, and which go on after a text that is complete.
//! Everything here errs on the side of too many bytes.

use super::Node;

/// A set of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    pub const NONE: Bytes = Bytes([0; 4]);

    fn range(first: u8, last: u8) -> Bytes {
        let mut bytes = Bytes::NONE;
        (first..=last).for_each(|byte| bytes.0[usize::from(byte / 64)] |= 1 << (byte % 64));
        bytes
    }

    pub fn union(self, other: Bytes) -> Bytes {
        Bytes(std::array::from_fn(|index| self.0[index] | other.0[index]))
    }

    pub fn meets(self, other: Bytes) -> bool {
        (0..4).any(|index| self.0[index] & other.0[index] != 0)
    }
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// It may be empty.
    pub empty: bool,
    /// Bytes that it may begin with.
    pub first: Bytes,
    /// Bytes that occur in it.
    pub any: Bytes,
    /// Bytes with which a text that is complete can be a longer one's beginning.
    pub extended: Bytes,
}

impl Facts {
    const EMPTY: Facts = Facts { empty: true, first: Bytes::NONE, any: Bytes::NONE, extended: Bytes::NONE };
    const NOTHING: Facts = Facts { empty: false, ..Facts::EMPTY };

    /// `rules` are the facts of the rules that the node may name.
    pub fn of(node: &Node, rules: &[Facts]) -> Facts {
        let facts = match node {
            Node::Text(text) => Facts::of_text(text),
            Node::Class(ranges) => Facts::of_class(ranges),
            // A token's bytes are not looked at: it may begin anything.
            Node::Token { .. } => {
                let all = Bytes::range(0, 255);
                Facts { first: all, any: all, ..Facts::NOTHING }
            }
            Node::Rule(rule) => rules[*rule],
            Node::Sequence(items) => {
                items.iter().fold(Facts::EMPTY, |before, item| before.then(Facts::of(item, rules)))
            }
            Node::Either(options) => {
                let all: Vec<Facts> = options.iter().map(|option| Facts::of(option, rules)).collect();
                let mut facts = all.iter().fold(Facts::NOTHING, |sum, option| Facts {
                    empty: sum.empty | option.empty,
                    first: sum.first.union(option.first),
                    any: sum.any.union(option.any),
                    extended: sum.extended.union(option.extended),
                });
                if !Facts::are_apart(&all) {
                    facts.extended = facts.any;
                }
                facts
            }
            Node::Repeat { most: Some(0), .. } => Facts::EMPTY,
            Node::Repeat { node, least, most } => {
                let inner = Facts::of(node, rules);
                let exact = Some(*least) == *most && !inner.empty;
                let mut extended = if exact { inner.extended } else { inner.extended.union(inner.first) };
                if *most != Some(1) && inner.extended.meets(inner.first) {
                    extended = inner.any;
                }
                Facts { empty: inner.empty || *least == 0, extended, ..inner }
            }
        };
        Facts { extended: if facts.empty { facts.extended.union(facts.first) } else { facts.extended }, ..facts }
    }

    fn then(self, next: Facts) -> Facts {
        let any = self.any.union(next.any);
        let extended = match () {
            () if self.extended.meets(next.first) => any,
            () if next.empty => next.extended.union(self.extended).union(next.first),
            () => next.extended,
        };
        Facts {
            empty: self.empty && next.empty,
            first: if self.empty { self.first.union(next.first) } else { self.first },
            any,
            extended,
        }
    }

    fn of_text(text: &str) -> Facts {
        let Some(&first) = text.as_bytes().first() else { return Facts::EMPTY };
        let any = text.bytes().fold(Bytes::NONE, |sum, byte| sum.union(Bytes::range(byte, byte)));
        Facts { first: Bytes::range(first, first), any, ..Facts::NOTHING }
    }

    fn of_class(ranges: &[(char, char)]) -> Facts {
        let lead = |c: char| c.encode_utf8(&mut [0; 4]).as_bytes()[0];
        let first = ranges.iter().fold(Bytes::NONE, |sum, (a, b)| sum.union(Bytes::range(lead(*a), lead(*b))));
        let wide = ranges.iter().any(|(_, last)| !last.is_ascii());
        let any = if wide { first.union(Bytes::range(0x80, 0xbf)) } else { first };
        Facts { first, any, ..Facts::NOTHING }
    }

    /// Whether the first byte tells the options apart.
    pub fn are_apart(options: &[Facts]) -> bool {
        let mut seen = Bytes::NONE;
        options.iter().all(|option| {
            let apart = !seen.meets(option.first);
            seen = seen.union(option.first);
            apart
        })
    }
}

/// The facts of all rules, which may name each other.
pub(super) fn rule_facts(rules: &[Node]) -> Vec<Facts> {
    let mut facts = vec![Facts::NOTHING; rules.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for (number, rule) in rules.iter().enumerate().rev() {
            let now = Facts::of(rule, &facts);
            changed |= std::mem::replace(&mut facts[number], now) != now;
        }
    }
    facts
}
