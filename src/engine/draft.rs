//! Guesses how a sequence goes on from where it has said the same before: prompt lookup (Saxena, "Prompt Lookup
//! Decoding", 2023), for the model to verify in one step (Leviathan, Kalman & Matias, "Fast Inference from Transformers
//! via Speculative Decoding", 2023). Pure: it knows tokens, and nothing of steps.

use std::collections::HashMap;

/// Tokens that must have occurred before, in this order, for what followed them to be a guess.
pub const NGRAM: usize = 3;
/// Most tokens that must agree before the next draft, however often drafts were wrong.
const NEEDED_MAX: usize = 64;

/// An earlier place where the tokens were those that the sequence ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    /// Where the token stands that followed.
    next: usize,
    /// Tokens that agree: at least [`NGRAM`].
    length: usize,
}

/// What one sequence has said, and where. Takes 30 to 60 bytes for each token.
#[derive(Clone, Debug)]
pub struct Drafter {
    /// A text that the answer may resemble, then the sequence's own tokens.
    history: Vec<u32>,
    /// How many of them are not the sequence's own.
    predicted: usize,
    /// Behind each run of tokens: where the token stands that followed it the last time.
    followers: HashMap<[u32; NGRAM], usize>,
    found: Option<Match>,
    /// Tokens that must agree before a draft.
    needed: usize,
}

impl Drafter {
    /// `prediction`: what the answer may resemble, as far as that is known.
    pub fn new(prediction: &[u32]) -> Drafter {
        let mut drafter = Drafter {
            history: Vec::new(),
            predicted: prediction.len(),
            followers: HashMap::new(),
            found: None,
            needed: NGRAM,
        };
        prediction.iter().for_each(|&token| drafter.push(token));
        drafter
    }

    /// Takes in those of the sequence's tokens that are new. A constant time for each.
    pub fn extend(&mut self, tokens: &[u32]) {
        let known = self.history.len() - self.predicted;
        for &token in tokens.get(known..).unwrap_or_default() {
            self.push(token);
        }
    }

    /// A match goes on as long as it is right, so a long one is not given up for a later but shorter one.
    fn push(&mut self, token: u32) {
        let end = self.history.len() + 1;
        let goes_on = self.found.filter(|found| self.history[found.next] == token);
        self.found = goes_on.map(|found| Match { next: found.next + 1, length: found.length + 1 });
        self.history.push(token);
        if let Some(last) = self.history.last_chunk() {
            let before = self.followers.insert(*last, end);
            self.found = self.found.or(before.map(|next| Match { next, length: NGRAM }));
        }
    }

    /// The tokens that may come next, at most `room`: none where nothing like it was said before. A match gets a draft no
    /// longer than itself: what has held for long will hold on. Lengths are one less than a power of two, since a step
    /// verifies a draft together with the token before it and plans are made for powers of two of rows.
    pub fn draft(&self, room: usize) -> Vec<u32> {
        let Some(Match { next, length }) = self.found.filter(|found| found.length >= self.needed) else {
            return Vec::new();
        };
        let count = ((1 << (length + 1).ilog2()) - 1).min(room);
        // Behind the history's end it repeats itself: what it copies from is then the draft.
        let period = self.history.len() - next;
        (0..count).map(|index| self.history[next + index % period]).collect()
    }

    /// What came of a draft: where less than half was right, the next one needs a match twice as long, so that text which
    /// only seems to repeat itself costs little.
    pub fn judge(&mut self, drafted: usize, accepted: usize) {
        self.needed = if 2 * accepted >= drafted { NGRAM } else { (2 * self.needed).min(NEEDED_MAX) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: [u32; 0] = [];

    fn drafter(tokens: &[u32]) -> Drafter {
        let mut drafter = Drafter::new(&[]);
        drafter.extend(tokens);
        drafter
    }

    #[test]
    fn what_was_said_before_is_guessed_again() {
        assert_eq!(drafter(&[1, 2, 3, 4, 5, 1, 2]).draft(9), NONE, "two tokens are no match");
        assert_eq!(drafter(&[1, 2, 3, 4, 5, 1, 2, 3]).draft(9), [4, 5, 1]);
        assert_eq!(drafter(&[1, 2, 3, 4, 5, 1, 2, 3]).draft(2), [4, 5]);
        assert_eq!(drafter(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).draft(1), [5], "as the last time");
        assert_eq!(drafter(&[7; 4]).draft(9), [7; 3], "what repeats itself goes on");
        assert_eq!(drafter(&[7; 9]).draft(9), [7; 7]);
        assert_eq!(drafter(&[1, 2, 1, 2, 1, 2, 1, 2, 1]).draft(9), [2, 1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn a_match_is_followed_though_the_same_was_said_later() {
        let said = [10, 1, 2, 3, 20, 21, 1, 2, 3, 30, 31];
        let then = |more: &[u32]| drafter(&[&said[..], more].concat()).draft(1);
        assert_eq!(then(&[1, 2, 3]), [30], "of three tokens the nearest");
        assert_eq!(then(&[10, 1, 2, 3]), [20], "four of the first place agree");
    }

    #[test]
    fn a_prediction_is_looked_up_as_well() {
        let mut drafter = Drafter::new(&[5, 6, 7, 8, 9]);
        drafter.extend(&[1, 2]);
        assert_eq!(drafter.draft(9), NONE);
        drafter.extend(&[1, 2, 5, 6, 7]);
        assert_eq!(drafter.draft(9), [8, 9, 1]);
    }

    #[test]
    fn wrong_drafts_make_it_careful() {
        let mut drafter = drafter(&[1, 2, 3, 4, 1, 2, 3]);
        drafter.judge(3, 1);
        assert_eq!(drafter.draft(9), NONE, "six must agree now");
        drafter.extend(&[1, 2, 3, 4, 1, 2, 3, 4, 1]);
        assert_eq!(drafter.draft(9), NONE);
        drafter.extend(&[1, 2, 3, 4, 1, 2, 3, 4, 1, 2]);
        assert_eq!(drafter.draft(9), [3, 4, 1]);
        drafter.judge(3, 2);
        assert_eq!(drafter.needed, NGRAM);
        for _ in 0..20 {
            drafter.judge(3, 0);
        }
        assert_eq!(drafter.needed, NEEDED_MAX);
    }

    /// The same by looking at everything. A match that was found is followed until it is wrong.
    fn naive(tokens: &[u32]) -> Option<Match> {
        let mut found: Option<Match> = None;
        for end in 1..=tokens.len() {
            found = found
                .filter(|found| tokens[found.next] == tokens[end - 1])
                .map(|found| Match { next: found.next + 1, length: found.length + 1 });
            if found.is_none() && end >= NGRAM {
                let last = &tokens[end - NGRAM..end];
                let before = (NGRAM..end).rev().find(|&next| tokens[next - NGRAM..next] == *last);
                found = before.map(|next| Match { next, length: NGRAM });
            }
        }
        found
    }

    proptest! {
        #[test]
        fn a_search_through_everything_finds_the_same(
            prediction in prop::collection::vec(0u32..4, 0..30), tokens in prop::collection::vec(0u32..4, 0..120),
            pieces in prop::collection::vec(0usize..120, 0..5), room in 0usize..40,
        ) {
            let mut drafter = Drafter::new(&prediction);
            for piece in pieces {
                drafter.extend(&tokens[..piece.min(tokens.len())]);
            }
            drafter.extend(&tokens);
            let all = [prediction, tokens].concat();
            let found = naive(&all);
            prop_assert_eq!(drafter.found, found);
            let draft = drafter.draft(room);
            let Some(found) = found else {
                prop_assert!(draft.is_empty());
                return Ok(());
            };
            prop_assert_eq!(&all[found.next - found.length..found.next], &all[all.len() - found.length..]);
            prop_assert!(draft.len() <= room.min(found.length));
            prop_assert!(draft.len() == room || (draft.len() + 1).is_power_of_two() && 2 * draft.len() + 1 > found.length);
            // As if tokens were copied one after another, from what they become as well.
            let mut copied = all.clone();
            for (index, token) in draft.into_iter().enumerate() {
                prop_assert_eq!(token, copied[found.next + index]);
                copied.push(token);
            }
        }

        /// No draft where nothing occurs twice.
        #[test]
        fn nothing_is_guessed_from_nothing(count in 0u32..300) {
            prop_assert!(drafter(&(0..count).collect::<Vec<_>>()).draft(9).is_empty());
        }
    }
}
