//! Stop strings: text at which an answer ends, wherever tokens begin and end. It knows nothing of tokens.

/// Finds stop strings in a text that comes in pieces, and holds back only what may be the beginning of one.
///
/// The answer ends at the first place where a stop string is complete; of several complete there, the longest counts.
/// So the result does not depend on how the text was cut into pieces.
#[derive(Clone, Debug)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
    held: String,
    stopped: bool,
}

/// What [`StopStrings::push`] lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub text: String,
    /// The stop string that ended the answer, as an index into those given. Nothing passes afterwards.
    pub stopped: Option<usize>,
}

/// A stop string with the table of Knuth, Morris and Pratt: how much of it still matches after a mismatch.
#[derive(Clone, Debug)]
struct Pattern {
    bytes: Vec<u8>,
    fallback: Vec<usize>,
    matched: usize,
    index: usize,
}

impl StopStrings {
    /// Empty strings are left out: they would end every answer before it began.
    pub fn new<S: AsRef<str>>(strings: impl IntoIterator<Item = S>) -> StopStrings {
        let patterns = strings.into_iter().enumerate().filter(|(_, string)| !string.as_ref().is_empty());
        let patterns = patterns.map(|(index, string)| Pattern::new(index, string.as_ref())).collect();
        StopStrings { patterns, held: String::new(), stopped: false }
    }

    /// Takes the next piece of the answer and returns what may be shown.
    pub fn push(&mut self, piece: &str) -> Passed {
        if self.stopped {
            return Passed::default();
        }
        let before = self.held.len();
        self.held.push_str(piece);
        for (offset, &byte) in piece.as_bytes().iter().enumerate() {
            let complete = self.patterns.iter_mut().filter_map(|pattern| pattern.advance(byte)).max();
            if let Some((length, index)) = complete {
                self.stopped = true;
                let mut text = std::mem::take(&mut self.held);
                text.truncate(before + offset + 1 - length);
                return Passed { text, stopped: Some(index.0) };
            }
        }
        let hold = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - hold);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// The answer has ended otherwise: what was held back is text after all.
    pub fn finish(&mut self) -> String {
        self.stopped = true;
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(index: usize, string: &str) -> Pattern {
        let bytes = string.as_bytes().to_vec();
        let mut fallback = vec![0; bytes.len() + 1];
        let mut matched = 0;
        for at in 1..bytes.len() {
            while matched > 0 && bytes[at] != bytes[matched] {
                matched = fallback[matched];
            }
            matched += usize::from(bytes[at] == bytes[matched]);
            fallback[at + 1] = matched;
        }
        Pattern { bytes, fallback, matched: 0, index }
    }

    /// The length when `byte` completes the string, and the index for choosing the first of equal strings.
    fn advance(&mut self, byte: u8) -> Option<(usize, std::cmp::Reverse<usize>)> {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        (self.matched == self.bytes.len()).then_some((self.matched, std::cmp::Reverse(self.index)))
    }
}
