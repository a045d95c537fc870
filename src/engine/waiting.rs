//! Who is next: sequences that wait for a place, shared out fairly among clients. Pure.
//!
//! Among clients the one that has been served least comes first, counted in tokens, an answer's weighing twice a prompt's:
//! the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024. Among the requests of
//! one client shorter prompts come first, but a request is overtaken only by a bounded number of later ones.

use std::collections::HashMap;
use std::sync::Arc;

/// A prompt that is shorter by this many tokens is worth one place in the order of arrival.
const TOKENS_A_PLACE: u64 = 256;

/// What an answer's token counts for, where a prompt's counts for one.
const ANSWER_WEIGHT: u64 = 2;

/// An entry's place among those of its client; the lowest is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    place: u64,
    arrival: u64,
    choice: u32,
}

impl Rank {
    /// Of another answer to the same prompt.
    pub fn of_choice(self, choice: u32) -> Rank {
        Rank { choice, ..self }
    }
}

#[derive(Debug)]
struct Client<T> {
    served: u64,
    /// Entries that were taken and are not done.
    running: u32,
    entries: Vec<(Rank, T)>,
}

/// All that wait.
#[derive(Debug)]
pub struct Waiting<T> {
    clients: HashMap<Arc<str>, Client<T>>,
    /// What the client served least had when one was last taken: nobody saves up turns while it asks for nothing.
    floor: u64,
    arrivals: u64,
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        Waiting { clients: HashMap::new(), floor: 0, arrivals: 0 }
    }
}

impl<T> Waiting<T> {
    /// The rank of one that arrives now with a prompt of so many tokens.
    pub fn rank(&mut self, prompt_tokens: usize) -> Rank {
        self.arrivals += 1;
        let place = self.arrivals * TOKENS_A_PLACE + prompt_tokens as u64;
        Rank { place, arrival: self.arrivals, choice: 0 }
    }

    pub fn push(&mut self, client: &Arc<str>, rank: Rank, entry: T) {
        let floor = self.floor;
        let client = self.client(client);
        if client.entries.is_empty() && client.running == 0 {
            client.served = client.served.max(floor);
        }
        client.entries.push((rank, entry));
    }

    fn client(&mut self, name: &Arc<str>) -> &mut Client<T> {
        let floor = self.floor;
        self.clients.entry(name.clone()).or_insert_with(|| Client { served: floor, running: 0, entries: Vec::new() })
    }

    pub fn is_empty(&self) -> bool {
        self.clients.values().all(|client| client.entries.is_empty())
    }

    /// Whose turn it is, and the place of its next entry.
    fn turn(&self) -> Option<(Arc<str>, usize)> {
        let first = |client: &Client<T>| (0..client.entries.len()).min_by_key(|&at| client.entries[at].0);
        let candidates = self.clients.iter().filter_map(|(name, client)| Some((name, client, first(client)?)));
        let (name, _, at) = candidates.min_by_key(|(_, client, at)| (client.served, client.entries[*at].0))?;
        Some((name.clone(), at))
    }

    /// Takes the next entry; its client has one more running.
    pub fn pop(&mut self) -> Option<T> {
        let (name, at) = self.turn()?;
        let client = self.clients.get_mut(&name)?;
        self.floor = client.served;
        client.running += 1;
        Some(client.entries.swap_remove(at).1)
    }

    /// One that was taken is done, or waits again.
    pub fn left(&mut self, name: &Arc<str>) {
        if let Some(client) = self.clients.get_mut(name) {
            client.running -= 1;
        }
        self.clients.retain(|_, client| client.running > 0 || !client.entries.is_empty() || client.served > self.floor);
    }

    /// Tokens were evaluated or sampled for a client that has something running.
    pub fn charge(&mut self, name: &Arc<str>, prompt_tokens: usize, answer_tokens: usize) {
        let client = self.client(name);
        client.served += prompt_tokens as u64 + ANSWER_WEIGHT * answer_tokens as u64;
    }

    /// Takes out all that `gone` says so of.
    pub fn extract(&mut self, mut gone: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for client in self.clients.values_mut() {
            out.extend(client.entries.extract_if(.., |(_, entry)| gone(entry)).map(|(_, entry)| entry));
        }
        self.clients.retain(|_, client| client.running > 0 || !client.entries.is_empty() || client.served > self.floor);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    #[test]
    fn clients_take_turns_by_what_they_were_given() {
        let (greedy, modest) = (name("greedy"), name("modest"));
        let mut waiting = Waiting::default();
        for index in 0..20 {
            let rank = waiting.rank(10);
            waiting.push(&greedy, rank, ("greedy", index));
        }
        let mut taken = Vec::new();
        for round in 0..10 {
            if round == 4 {
                for index in 0..3 {
                    let rank = waiting.rank(10);
                    waiting.push(&modest, rank, ("modest", index));
                }
            }
            let (client, index) = waiting.pop().unwrap();
            taken.push((client, index));
            waiting.charge(&name(client), 10, 45);
            waiting.left(&name(client));
        }
        let modest: Vec<usize> = (0..10).filter(|&at| taken[at].0 == "modest").collect();
        assert_eq!(modest, [4, 6, 8], "every second turn, whatever the other has queued: {taken:?}");
    }

    #[test]
    fn who_was_idle_saves_nothing_up() {
        let (old, new) = (name("old"), name("new"));
        let mut waiting = Waiting::default();
        for _ in 0..10 {
            let rank = waiting.rank(1);
            waiting.push(&old, rank, "old");
        }
        for _ in 0..4 {
            assert_eq!(waiting.pop(), Some("old"));
            waiting.charge(&old, 100, 0);
            waiting.left(&old);
        }
        for _ in 0..4 {
            let rank = waiting.rank(1);
            waiting.push(&new, rank, "new");
        }
        let turns: Vec<&str> = (0..6)
            .filter_map(|_| {
                let client = waiting.pop()?;
                waiting.charge(&name(client), 100, 0);
                waiting.left(&name(client));
                Some(client)
            })
            .collect();
        assert_eq!(turns.iter().filter(|client| **client == "new").count(), 3, "{turns:?}");
    }

    #[test]
    fn shorter_prompts_overtake_and_are_bounded() {
        let only = name("");
        let mut waiting = Waiting::default();
        let rank = waiting.rank(4 * TOKENS_A_PLACE as usize);
        waiting.push(&only, rank, usize::MAX);
        for index in 0..10 {
            let rank = waiting.rank(1);
            waiting.push(&only, rank, index);
        }
        let order: Vec<usize> = std::iter::from_fn(|| waiting.pop()).collect();
        assert_eq!(order[..5], [0, 1, 2, usize::MAX, 3], "{order:?}");
    }

    proptest! {
        /// Everything that goes in comes out, once, and nothing is remembered of clients that are gone.
        #[test]
        fn nothing_is_lost(entries in prop::collection::vec((0u8..4, 1usize..5000), 0..60), gone in 0usize..7) {
            let mut waiting = Waiting::default();
            for (index, &(client, tokens)) in entries.iter().enumerate() {
                let rank = waiting.rank(tokens);
                waiting.push(&name(&client.to_string()), rank, index);
            }
            let mut seen: Vec<usize> = waiting.extract(|index| index % 7 == gone);
            prop_assert!(seen.iter().all(|index| index % 7 == gone));
            while let Some(next) = waiting.pop() {
                seen.push(next);
                waiting.left(&name(&entries[next].0.to_string()));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..entries.len()).collect::<Vec<_>>());
            prop_assert!(waiting.is_empty());
            prop_assert!(waiting.clients.is_empty());
        }
    }
}
