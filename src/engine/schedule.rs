//! What a step evaluates: which sequences, how many tokens of each, in which plan. Pure.

/// Fewest rows of a prefill plan: what one register tile of mat_mul takes. Rows beyond the step's are dead.
pub const CHUNK_ROWS_MIN: u32 = 4;

/// The rows that prefill plans are made for: powers of two from [`CHUNK_ROWS_MIN`] to `rows_max`.
pub fn chunk_sizes(rows_max: u32) -> impl Iterator<Item = u32> {
    (CHUNK_ROWS_MIN.trailing_zeros()..=rows_max.max(CHUNK_ROWS_MIN).ilog2()).map(|power| 1 << power)
}

/// The rows that decode plans are made for: powers of two up to `rows_max`, itself one.
pub fn decode_sizes(rows_max: u32) -> impl Iterator<Item = u32> {
    (0..=rows_max.ilog2()).map(|power| 1 << power)
}

/// The outputs that a prefill plan of `rows` is made for, at most `outputs_max`, a power of two: none, one, and powers of
/// two from a register tile on.
pub fn output_sizes(rows: u32, outputs_max: u32) -> impl Iterator<Item = u32> {
    let most = rows.min(outputs_max);
    let powers = (CHUNK_ROWS_MIN.trailing_zeros()..=most.ilog2()).map(|power| 1 << power).filter(move |&n| n <= most);
    let rest = (2..CHUNK_ROWS_MIN).filter(move |&n| n == most);
    [0, 1].into_iter().chain(rest).chain(powers)
}

/// The least plan that has so many outputs.
pub fn outputs_for(wanted: u32, rows: u32, outputs_max: u32) -> u32 {
    output_sizes(rows, outputs_max).find(|&size| size >= wanted).unwrap_or(outputs_max)
}

/// A step: for each sequence the tokens to evaluate, 0 for those that must wait, and the rows of its plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    pub tokens: Vec<u32>,
    pub rows: u32,
}

/// Shares out a step of at most `rows_max` rows among sequences of which each has so many tokens (> 0) that are known and
/// not evaluated, the most urgent first. Those with a single token, that is those which decode, all take part, as there are
/// at most as many of them as rows; prompts get the rest. A step of single tokens alone is a decode plan's; another is
/// padded to its plan's size if at most a quarter of the rows stay dead, else cut to the size below.
pub fn share(pending: &[u32], rows_max: u32) -> Shares {
    let singles = pending.iter().filter(|&&tokens| tokens == 1).count() as u32;
    let prompts: u64 = pending.iter().filter(|&&tokens| tokens > 1).map(|&tokens| u64::from(tokens)).sum();
    if prompts == 0 {
        return Shares { tokens: pending.to_vec(), rows: singles.next_power_of_two() };
    }
    let total = u32::try_from(prompts + u64::from(singles)).unwrap_or(u32::MAX);
    let (mut room, rows) = plan_size(total, singles, rows_max);
    room -= singles;
    let tokens = pending
        .iter()
        .map(|&tokens| {
            let share = if tokens == 1 { 1 } else { tokens.min(room) };
            room -= if tokens == 1 { 0 } else { share };
            share
        })
        .collect();
    Shares { tokens, rows }
}

/// How many of `total` tokens to take, `singles` of which must be among them, and the rows of the plan for them.
fn plan_size(total: u32, singles: u32, rows_max: u32) -> (u32, u32) {
    let largest = chunk_sizes(rows_max).last().unwrap_or(CHUNK_ROWS_MIN);
    if total >= largest {
        return (largest, largest);
    }
    let above = total.next_power_of_two().max(CHUNK_ROWS_MIN);
    if above == CHUNK_ROWS_MIN || above - total <= above / 4 || above / 2 <= singles {
        (total, above)
    } else {
        (above / 2, above / 2)
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
        assert_eq!(decode_sizes(8).collect::<Vec<_>>(), [1, 2, 4, 8]);
        assert_eq!(output_sizes(64, 16).collect::<Vec<_>>(), [0, 1, 4, 8, 16]);
        assert_eq!(output_sizes(4, 16).collect::<Vec<_>>(), [0, 1, 4]);
        assert_eq!(output_sizes(64, 2).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(output_sizes(64, 1).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(outputs_for(2, 64, 2), 2);
        assert_eq!(outputs_for(5, 64, 16), 8);
    }

    #[test]
    fn steps_of_note() {
        let step = |tokens: &[u32], rows| Shares { tokens: tokens.to_vec(), rows };
        assert_eq!(share(&[1, 1, 1], 64), step(&[1, 1, 1], 4), "decoding");
        assert_eq!(share(&[1000], 64), step(&[64], 64), "a long prompt");
        assert_eq!(share(&[1, 100, 1, 50], 64), step(&[1, 62, 1, 0], 64), "decoding goes on beside prompts");
        assert_eq!(share(&[20, 30, 1], 64), step(&[20, 30, 1], 64), "several prompts");
        assert_eq!(share(&[9], 64), step(&[8], 8), "rather two plans than half an empty one");
        assert_eq!(share(&[1, 1, 1, 1, 1, 4], 16), step(&[1, 1, 1, 1, 1, 3], 8), "cut to the size below");
        assert_eq!(share(&[1; 16].into_iter().chain([4]).collect::<Vec<_>>(), 32).rows, 32, "decoding needs its rows");
    }

    proptest! {
        /// Whatever waits, steps are of known sizes, hold every single token, and use up all prompts, the first first.
        #[test]
        fn shares_cover_everything(
            mut pending in prop::collection::vec(prop_oneof![Just(1u32), 2u32..300], 1..17), power in 5u32..8,
        ) {
            let rows_max = 1 << power;
            let mut steps = 0;
            while pending.iter().any(|&tokens| tokens > 1) {
                let Shares { tokens, rows } = share(&pending, rows_max);
                prop_assert!(chunk_sizes(rows_max).any(|size| size == rows));
                prop_assert!(tokens.iter().sum::<u32>() <= rows);
                prop_assert!(pending.iter().zip(&tokens).all(|(&left, &taken)| taken <= left));
                prop_assert!(pending.iter().zip(&tokens).all(|(&left, &taken)| left > 1 || taken == 1));
                let served: Vec<bool> =
                    pending.iter().zip(&tokens).filter(|(left, _)| **left > 1).map(|(left, taken)| taken == left).collect();
                prop_assert!(served.windows(2).all(|two| two[0] || !two[1]), "in order");
                prop_assert!(tokens.iter().zip(&pending).any(|(&taken, &left)| taken > 0 && left > 1), "prompts get on");
                for (left, taken) in pending.iter_mut().zip(tokens) {
                    *left = (*left - taken).max(1);
                }
                steps += 1;
                prop_assert!(steps < 10_000);
            }
            let decode = share(&pending, rows_max);
            prop_assert!(decode_sizes(16).any(|size| size == decode.rows) && decode.tokens.iter().all(|&taken| taken == 1));
        }
    }
}
