//! Which part of a prompt to evaluate next, and with how many rows. Pure.

/// Fewest rows of a prefill plan: what one register tile of mat_mul takes. Rows beyond the prompt are dead.
pub const CHUNK_ROWS_MIN: u32 = 4;

/// The rows that prefill plans are made for: powers of two from [`CHUNK_ROWS_MIN`] to `rows_max`.
pub fn chunk_sizes(rows_max: u32) -> impl Iterator<Item = u32> {
    (CHUNK_ROWS_MIN.trailing_zeros()..=rows_max.max(CHUNK_ROWS_MIN).ilog2()).map(|power| 1 << power)
}

/// A piece of a prompt: `tokens` of it in a plan of `rows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub tokens: u32,
    pub rows: u32,
}

/// The next piece of a prompt of which `remaining` (> 0) tokens are left: padded to the next plan's size if at most a
/// quarter of its rows stay dead, else cut to the size below.
pub fn next_chunk(remaining: u32, rows_max: u32) -> Chunk {
    let largest = chunk_sizes(rows_max).last().unwrap_or(CHUNK_ROWS_MIN);
    if remaining >= largest {
        return Chunk { tokens: largest, rows: largest };
    }
    let above = remaining.next_power_of_two().max(CHUNK_ROWS_MIN);
    if above == CHUNK_ROWS_MIN || above - remaining <= above / 4 {
        Chunk { tokens: remaining, rows: above }
    } else {
        Chunk { tokens: above / 2, rows: above / 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(chunk_sizes(64).collect::<Vec<_>>(), [4, 8, 16, 32, 64]);
        assert_eq!(chunk_sizes(1).collect::<Vec<_>>(), [4]);
    }

    proptest! {
        #[test]
        fn chunks_cover_the_prompt_with_known_plans(prompt in 1u32..5000, power in 2u32..10) {
            let mut remaining = prompt;
            while remaining > 0 {
                let chunk = next_chunk(remaining, 1 << power);
                prop_assert!(chunk_sizes(1 << power).any(|rows| rows == chunk.rows));
                prop_assert!(chunk.tokens >= 1 && chunk.tokens <= chunk.rows && chunk.tokens <= remaining);
                remaining -= chunk.tokens;
            }
        }
    }
}
