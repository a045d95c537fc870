//! SentencePiece BPE: characters merge greedily, the pair whose token has the best score first, and what has no token
//! falls back to its bytes. It knows nothing of special tokens.

use super::vocabulary::Tokens;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// U+2581, which stands for a space in these vocabularies.
pub(crate) const SPACE: &str = "▁";

const NONE: usize = usize::MAX;

/// A run of the text that is one symbol so far; a symbol merged into its left neighbour has length 0.
struct Symbol {
    start: usize,
    length: usize,
    previous: usize,
    next: usize,
}

/// Two neighbours whose concatenation is a token.
#[derive(PartialEq)]
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    /// The best score first, the leftmost among equals.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug)]
pub(crate) struct SentencePiece {
    /// The ids to write for a byte without a token of its own character; `None` where the vocabulary lacks it.
    bytes: Vec<Option<u32>>,
}

impl SentencePiece {
    pub fn new(tokens: &Tokens) -> SentencePiece {
        let id = |byte: u8| {
            let written = tokens.id(&format!("<0x{byte:02X}>"));
            let plain = || byte.is_ascii().then(|| tokens.id((byte as char).encode_utf8(&mut [0; 4]))).flatten();
            written.or_else(plain).or(tokens.unknown)
        };
        SentencePiece { bytes: (0..=255).map(id).collect() }
    }

    /// Appends the ids of `text`, in which spaces are already [`SPACE`] and which holds no special tokens.
    pub fn encode(&self, tokens: &Tokens, text: &str, ids: &mut Vec<u32>) {
        let mut symbols = characters(text);
        let mut heap = BinaryHeap::new();
        let propose = |symbols: &[Symbol], left: usize, right: usize, heap: &mut BinaryHeap<Candidate>| {
            if left == NONE || right == NONE {
                return;
            }
            let (start, length) = (symbols[left].start, symbols[left].length + symbols[right].length);
            if let Some(id) = tokens.id(&text[start..start + length]) {
                heap.push(Candidate { score: tokens.scores[id as usize], left, right, length });
            }
        };
        for right in 1..symbols.len() {
            propose(&symbols, right - 1, right, &mut heap);
        }
        while let Some(Candidate { left, right, length, .. }) = heap.pop() {
            let (first, second) = (symbols[left].length, symbols[right].length);
            if first == 0 || second == 0 || first + second != length {
                continue; // one of them has merged since
            }
            let next = symbols[right].next;
            symbols[left].length = length;
            symbols[left].next = next;
            symbols[right].length = 0;
            if next != NONE {
                symbols[next].previous = left;
            }
            propose(&symbols, symbols[left].previous, left, &mut heap);
            propose(&symbols, left, next, &mut heap);
        }
        for symbol in symbols.iter().filter(|symbol| symbol.length > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.length];
            match tokens.id(piece) {
                Some(id) => ids.push(id),
                None => ids.extend(piece.bytes().filter_map(|byte| self.bytes[byte as usize])),
            }
        }
    }
}

fn characters(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = text
        .char_indices()
        .enumerate()
        .map(|(index, (start, character))| Symbol {
            start,
            length: character.len_utf8(),
            previous: index.checked_sub(1).unwrap_or(NONE),
            next: index + 1,
        })
        .collect();
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
}
