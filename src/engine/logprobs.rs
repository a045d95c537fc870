//! Log-probabilities of one token's alternatives, from a row of raw logits. Knows nothing of how the token was chosen.

use super::request::Logprobs;

/// The log-softmax of `logits` at `chosen`, and the `top` most probable tokens, equals by id. Summed in f64; NaN counts
/// as -inf, and where no logit is finite every token is equally probable among the greatest.
///
/// # Panics
/// When `chosen` is not below the number of logits: a defect of the caller.
pub fn logprobs(logits: &[f32], chosen: u32, top: u8) -> Logprobs {
    let logit = |token: u32| {
        let x = logits[token as usize];
        if x.is_nan() { f32::NEG_INFINITY } else { x }
    };
    let tokens = 0..u32::try_from(logits.len()).unwrap_or(u32::MAX);
    let greatest = tokens.clone().map(logit).fold(f32::NEG_INFINITY, f32::max);
    // Equal infinities differ by zero here.
    let below = |token: u32| {
        let x = logit(token);
        if x == greatest { 0.0 } else { f64::from(x) - f64::from(greatest) }
    };
    let log_sum = tokens.clone().map(|token| below(token).exp()).sum::<f64>().ln();
    let logprob = |token: u32| (below(token) - log_sum) as f32;

    let mut best: Vec<u32> = Vec::with_capacity(usize::from(top) + 1);
    for token in tokens {
        let worst_stays = best.last().is_some_and(|&worst| logit(worst) >= logit(token));
        if top == 0 || (best.len() == usize::from(top) && worst_stays) {
            continue;
        }
        let at = best.partition_point(|&other| logit(other) >= logit(token));
        best.insert(at, token);
        best.truncate(usize::from(top));
    }
    Logprobs { chosen: logprob(chosen), top: best.into_iter().map(|token| (token, logprob(token))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let quarters = logprobs(&[1.0, 1.0, 1.0, 1.0], 2, 2);
        assert!((quarters.chosen - 0.25f32.ln()).abs() < 1e-7);
        assert_eq!(quarters.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1]);
        let odds = logprobs(&[0.0, 3f32.ln(), -1e30], 0, 3);
        assert!((odds.chosen - 0.25f32.ln()).abs() < 1e-6);
        assert_eq!(odds.top[0].0, 1);
        assert!((odds.top[0].1 - 0.75f32.ln()).abs() < 1e-6);
        assert_eq!(odds.top.len(), 3);
    }

    #[test]
    fn nothing_asked_nothing_listed() {
        assert_eq!(logprobs(&[1.0, 2.0], 0, 0).top, []);
        assert_eq!(logprobs(&[1.0], 0, 20).top, [(0, 0.0)]);
    }

    #[test]
    fn nan_and_infinities_give_no_nan() {
        let strange = logprobs(&[f32::NAN, f32::INFINITY, 1.0, f32::NEG_INFINITY, f32::INFINITY], 0, 5);
        assert_eq!(strange.chosen, f32::NEG_INFINITY);
        let tokens: Vec<u32> = strange.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [1, 4, 2, 0, 3]);
        assert!((strange.top[0].1 - 0.5f32.ln()).abs() < 1e-7);
        let nothing = logprobs(&[f32::NEG_INFINITY; 4], 3, 1);
        assert!((nothing.chosen - 0.25f32.ln()).abs() < 1e-7);
    }

    proptest! {
        #[test]
        fn equals_sorting_everything(
            // Quarters, so that equal logits are common.
            logits in prop::collection::vec((-40i16..40).prop_map(|x| f32::from(x) / 4.0), 1..300),
            chosen: prop::sample::Index,
            top in 0u8..=20,
        ) {
            let chosen = chosen.index(logits.len()) as u32;
            let found = logprobs(&logits, chosen, top);
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let mut expected: Vec<(u32, f64)> =
                (0u32..).zip(logits.iter().map(|&x| (f64::from(x).exp() / sum).ln())).collect();
            prop_assert!((f64::from(found.chosen) - expected[chosen as usize].1).abs() < 1e-5);
            expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            expected.truncate(usize::from(top));
            prop_assert_eq!(found.top.len(), expected.len());
            for (found, expected) in found.top.iter().zip(&expected) {
                prop_assert_eq!(found.0, expected.0);
                prop_assert!((f64::from(found.1) - expected.1).abs() < 1e-5);
            }
        }
    }
}
