//! Which blocks of the cache are free, held by sequences, or remembered for prompts to come. Pure: it never sees the
//! memory that it hands out.
//!
//! A full block is found again by the tokens in it and the block before it, so by the whole prefix: keys and values of a
//! token depend on all tokens before it. Tokens are compared, not hashes of them, so a prefix is never taken for another.
//! The idea is vLLM's (Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
//! 2023).

use crate::kernels::BLOCK_TOKENS;
use std::collections::{BTreeMap, HashMap};

/// Tokens of a block, as an index.
pub const TOKENS: usize = BLOCK_TOKENS as usize;

/// A full block's name for the blocks behind it; never used twice. 0 is the beginning of every sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Node(u64);

type Key = (Node, [u32; TOKENS]);

#[derive(Clone, Debug, Default)]
struct Block {
    holders: u32,
    /// Under which key it is remembered.
    key: Option<Key>,
    /// Its place in the order of use, while nobody holds it and it is remembered.
    stamp: u64,
}

/// Full blocks that hold the beginning of some tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub blocks: Vec<u32>,
    /// Of the last of them.
    pub node: Node,
}

/// All blocks of a cache.
#[derive(Debug)]
pub struct Blocks {
    blocks: Vec<Block>,
    free: Vec<u32>,
    remembered: HashMap<Key, (Node, u32)>,
    /// Remembered blocks that nobody holds, those unused for longest first.
    idle: BTreeMap<u64, u32>,
    nodes: u64,
    stamps: u64,
}

impl Blocks {
    pub fn new(count: u32) -> Blocks {
        Blocks {
            blocks: vec![Block::default(); count as usize],
            free: (0..count).rev().collect(),
            remembered: HashMap::new(),
            idle: BTreeMap::new(),
            nodes: 0,
            stamps: 0,
        }
    }

    pub fn count(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks that [`Blocks::take`] can still give.
    pub fn available(&self) -> u32 {
        (self.free.len() + self.idle.len()) as u32
    }

    /// Blocks that somebody holds.
    pub fn held(&self) -> u32 {
        self.count() - self.available()
    }

    /// Blocks that nobody holds, but that may be found again.
    pub fn idle(&self) -> u32 {
        self.idle.len() as u32
    }

    /// The longest run of remembered blocks that begins `tokens`, now held once more. At least one token is left over, since
    /// something must be evaluated to know what comes next.
    pub fn find(&mut self, tokens: &[u32]) -> Prefix {
        let mut prefix = Prefix { blocks: Vec::new(), node: Node::default() };
        for chunk in tokens[..tokens.len().saturating_sub(1)].as_chunks::<TOKENS>().0 {
            let Some(&(node, block)) = self.remembered.get(&(prefix.node, *chunk)) else { break };
            self.hold(block);
            prefix.blocks.push(block);
            prefix.node = node;
        }
        prefix
    }

    fn hold(&mut self, index: u32) {
        let block = &mut self.blocks[index as usize];
        if block.holders == 0 {
            self.idle.remove(&block.stamp);
        }
        block.holders += 1;
    }

    /// A block for the caller to hold; what was in it is forgotten. `None` when all are held.
    pub fn take(&mut self) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let (_, index) = self.idle.pop_first()?;
                self.forget(index);
                index
            }
        };
        self.blocks[index as usize].holders = 1;
        Some(index)
    }

    fn forget(&mut self, index: u32) {
        if let Some(key) = self.blocks[index as usize].key.take() {
            self.remembered.remove(&key);
        }
    }

    /// Remembers a held block that now holds `tokens`, behind `before`. Returns the name of what it holds, for the next
    /// block. Where another block holds the same already, that one stays the one that is found.
    pub fn remember(&mut self, before: Node, index: u32, tokens: &[u32; TOKENS]) -> Node {
        let key = (before, *tokens);
        if let Some(&(node, _)) = self.remembered.get(&key) {
            return node;
        }
        self.nodes += 1;
        let node = Node(self.nodes);
        self.remembered.insert(key, (node, index));
        self.blocks[index as usize].key = Some(key);
        node
    }

    /// Gives back the blocks of a sequence, in its order.
    pub fn release(&mut self, blocks: &[u32]) {
        // The last is to be taken first: without the blocks before it, it cannot be found.
        for &index in blocks.iter().rev() {
            let block = &mut self.blocks[index as usize];
            debug_assert!(block.holders > 0, "block {index} is held");
            block.holders -= 1;
            if block.holders > 0 {
                continue;
            }
            if block.key.is_some() {
                self.stamps += 1;
                block.stamp = self.stamps;
                self.idle.insert(self.stamps, index);
            } else {
                self.free.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes blocks for `tokens` beyond what is found, and remembers the full ones.
    fn fill(blocks: &mut Blocks, tokens: &[u32]) -> Option<(usize, Vec<u32>)> {
        let Prefix { blocks: mut held, mut node } = blocks.find(tokens);
        let found = held.len();
        while held.len() * TOKENS < tokens.len() {
            match blocks.take() {
                Some(block) => held.push(block),
                None => {
                    blocks.release(&held);
                    return None;
                }
            }
        }
        for (index, chunk) in tokens.as_chunks::<TOKENS>().0.iter().enumerate().skip(found) {
            node = blocks.remember(node, held[index], chunk);
        }
        Some((found, held))
    }

    fn tokens(count: usize, seed: u32) -> Vec<u32> {
        (0..count as u32).map(|at| at * 7 + seed).collect()
    }

    #[test]
    fn a_prefix_is_found_again_but_for_the_last_token() {
        let mut blocks = Blocks::new(8);
        let (found, first) = fill(&mut blocks, &tokens(3 * TOKENS, 1)).unwrap();
        assert_eq!((found, blocks.held(), blocks.idle()), (0, 3, 0));
        blocks.release(&first);
        assert_eq!((blocks.held(), blocks.idle(), blocks.available()), (0, 3, 8));
        let (found, second) = fill(&mut blocks, &tokens(3 * TOKENS, 1)).unwrap();
        assert_eq!(found, 2, "the third block's last token must be evaluated");
        assert_eq!(second[..2], first[..2]);
        let (found, longer) = fill(&mut blocks, &tokens(3 * TOKENS + 1, 1)).unwrap();
        assert_eq!(found, 3, "the first one's third block is found, not the second one's");
        assert_eq!(longer[..3], first[..]);
        let (found, other) = fill(&mut blocks, &tokens(TOKENS, 2)).unwrap();
        assert_eq!(found, 0);
        for held in [second, longer, other] {
            blocks.release(&held);
        }
        assert_eq!(blocks.held(), 0);
    }

    #[test]
    fn what_was_used_last_is_kept_longest_and_heads_outlive_tails() {
        let mut blocks = Blocks::new(4);
        let (_, old) = fill(&mut blocks, &tokens(2 * TOKENS, 1)).unwrap();
        let (_, new) = fill(&mut blocks, &tokens(2 * TOKENS, 2)).unwrap();
        blocks.release(&old);
        blocks.release(&new);
        assert_eq!(blocks.take(), Some(old[1]));
        assert_eq!(blocks.take(), Some(old[0]));
        assert_eq!(blocks.take(), Some(new[1]));
        assert_eq!(
            fill(&mut blocks, &tokens(TOKENS + 1, 2)),
            None,
            "its head is found, but no block is left for the rest"
        );
        assert_eq!(blocks.take(), Some(new[0]));
        assert_eq!(blocks.take(), None);
    }

    proptest! {
        /// Whatever is asked for and given back, no block is held by two unless they share its content, none is lost, and
        /// what is found holds what was asked for.
        #[test]
        fn blocks_are_never_lost_or_mixed_up(
            steps in prop::collection::vec((0u32..4, 1usize..150, any::<prop::sample::Index>(), any::<bool>()), 1..80),
        ) {
            let mut blocks = Blocks::new(12);
            let mut content: Vec<Vec<u32>> = vec![Vec::new(); 12];
            let mut live: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
            for (seed, count, index, add) in steps {
                if add || live.is_empty() {
                    let wanted = tokens(count, seed);
                    if let Some((found, held)) = fill(&mut blocks, &wanted) {
                        for (at, &block) in held.iter().enumerate() {
                            let part = wanted[at * TOKENS..wanted.len().min((at + 1) * TOKENS)].to_vec();
                            if at < found {
                                prop_assert_eq!(&content[block as usize], &part);
                            } else {
                                prop_assert!(live.iter().all(|(_, other)| !other.contains(&block)));
                                content[block as usize] = part;
                            }
                        }
                        live.push((wanted, held));
                    }
                } else {
                    let (_, held) = live.swap_remove(index.index(live.len()));
                    blocks.release(&held);
                }
                let mut held: Vec<u32> = live.iter().flat_map(|(_, held)| held.iter().copied()).collect();
                held.sort_unstable();
                held.dedup();
                prop_assert_eq!(blocks.held() as usize, held.len());
            }
            for (_, held) in live {
                blocks.release(&held);
            }
            prop_assert_eq!(blocks.held(), 0);
            let all: Vec<u32> = std::iter::from_fn(|| blocks.take()).collect();
            prop_assert_eq!(all.len(), 12);
        }
    }
}
