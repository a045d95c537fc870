//! Twin of `shaders/sample.comp`: the same order and the same integers, by sorting.

use super::Memory;
use crate::kernels::{Bias, CLOCK_RUNNING, IN_PROMPT, MAX_BIAS, NO_ROW, Row, Sampling, sample};
use std::cmp::Reverse;

/// Logits are confined to ±2¹²⁶; this also stands for -inf and NaN.
const LOWEST: f32 = -8.507_059e37;

/// The units of the most probable token.
const UNITS: f32 = 2_147_483_648.0;

/// Where nothing filters, tokens are drawn in the order of their ids modulo this.
const RESIDUES: u32 = 16;

/// Philox4x32-10: four random words from a counter and a key. Salmon, Moraes, Dror & Shaw, "Parallel Random Numbers: As
/// Easy as 1, 2, 3", SC'11.
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let x = u64::from(counter[0]) * 0xd251_1f53;
        let z = u64::from(counter[2]) * 0xcd9e_8d57;
        let high = |product: u64| (product >> 32) as u32;
        counter = [high(z) ^ counter[1] ^ key[0], z as u32, high(x) ^ counter[3] ^ key[1], x as u32];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

fn confined(x: f32) -> f32 {
    if x.is_nan() { LOWEST } else { x.clamp(LOWEST, -LOWEST) + 0.0 }
}

/// The logits with bias and penalties; `counts` as in the step, one for each token.
pub fn adjusted(logits: &[f32], how: &Sampling, biases: &[Bias], counts: &[u32]) -> Vec<f32> {
    let mut out: Vec<f32> = logits.iter().map(|&x| confined(x)).collect();
    for bias in &biases[..how.bias_count.min(MAX_BIAS) as usize] {
        if let Some(x) = out.get_mut(bias.token as usize) {
            *x = confined(*x + bias.value);
        }
    }
    if how.counted != 0 {
        for (x, &count) in out.iter_mut().zip(counts).filter(|(_, count)| **count != 0) {
            *x = if *x > 0.0 { *x / how.repetition_penalty } else { *x * how.repetition_penalty };
            let answered = count & !IN_PROMPT;
            if answered != 0 {
                *x -= how.presence_penalty;
                *x -= how.frequency_penalty * answered as f32;
            }
            *x = confined(*x);
        }
    }
    out
}

/// Leaves the tokens whose bits are set in `mask`.
pub fn masked(logits: &mut [f32], mask: &[u32]) {
    for (token, x) in logits.iter_mut().enumerate() {
        if mask[token / 32] >> (token % 32) & 1 == 0 {
            *x = LOWEST;
        }
    }
}

/// The lowest id among the greatest.
pub fn greatest(logits: &[f32]) -> usize {
    (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0)
}

fn filters(how: &Sampling, vocabulary: usize) -> bool {
    (how.top_k > 0 && (how.top_k as usize) < vocabulary) || how.top_p < 1.0 || how.min_p > 0.0
}

/// What the filters leave: tokens with the units of probability they keep, most probable first, equals by id. Empty
/// where the choice is greedy. `logits` are [`adjusted`].
pub fn distribution(logits: &[f32], how: &Sampling) -> Vec<(u32, u32)> {
    let greatest = logits[greatest(logits)];
    if greatest <= LOWEST || how.temperature.is_nan() || how.temperature <= 0.0 {
        return Vec::new();
    }
    let scale = (std::f32::consts::LOG2_E / how.temperature).min(1e30);
    let units = |x: f32| match x {
        x if x <= LOWEST => 0,
        x if x == greatest => UNITS as u32,
        x => (((x - greatest) * scale).exp2() * UNITS).round_ties_even() as u32,
    };
    let mut list: Vec<(u32, u32)> = (0u32..).zip(logits).map(|(token, &x)| (token, units(x))).collect();
    list.retain(|&(_, units)| units > 0);
    list.sort_by_key(|&(token, units)| (Reverse(units), token));
    if how.top_k != 0 {
        list.truncate(how.top_k as usize);
    }
    if how.top_p < 1.0 {
        let mass: u64 = list.iter().map(|&(_, units)| u64::from(units)).sum();
        let fraction = (how.top_p.max(0.0) * 16_777_216.0).round() as u128;
        let target = (u128::from(mass) * fraction).div_ceil(1 << 24) as u64;
        let mut sum = 0;
        let below = list.iter().take_while(|&&(_, units)| {
            sum += u64::from(units);
            sum < target
        });
        let kept = below.count() + 1;
        list.truncate(kept);
    }
    if how.min_p > 0.0 {
        list.retain(|&(_, units)| units as f32 >= how.min_p.min(1.0) * UNITS);
    }
    list
}

/// The token at which the running mass exceeds a random number below the whole mass.
pub fn draw(list: &[(u32, u32)], seed: [u32; 2], position: u32) -> u32 {
    let mass: u64 = list.iter().map(|&(_, units)| u64::from(units)).sum();
    let random = philox4x32_10([position, 0, 0, 0], seed);
    let random = u64::from(random[0]) | u64::from(random[1]) << 32;
    let below = ((u128::from(random) * u128::from(mass)) >> 64) as u64;
    let mut sum = 0;
    let found = list.iter().find(|&&(_, units)| {
        sum += u64::from(units);
        sum > below
    });
    found.expect("below < mass").0
}

pub(super) fn run(args: &sample::Resolved, memory: &mut Memory) {
    let vocabulary = args.vocabulary as usize;
    for output in 0..args.groups[0] as usize {
        let source = memory.view::<u32>(&args.outputs)[output];
        if source == NO_ROW {
            continue;
        }
        let row = memory.view::<Row>(&args.rows)[source as usize];
        if row.live == 0 {
            continue;
        }
        let sequence = row.sequence as usize;
        let how = memory.view::<Sampling>(&args.sampling)[sequence];
        let biases = &memory.view::<Bias>(&args.biases)[sequence * MAX_BIAS as usize..][..MAX_BIAS as usize];
        let counts = &memory.view::<u32>(&args.counts)[sequence * vocabulary..][..vocabulary];
        let raw = &memory.view::<f32>(&args.logits)[output * args.logits_stride as usize..][..vocabulary];
        let mut logits = adjusted(raw, &how, biases, counts);
        if how.masked != 0 {
            let words = vocabulary.div_ceil(32);
            masked(&mut logits, &memory.view::<u32>(&args.masks)[sequence * words..][..words]);
        }
        let mut list = distribution(&logits, &how);
        if !filters(&how, vocabulary) {
            list.sort_by_key(|&(token, _)| (token % RESIDUES, token));
        }
        let position = row.position.wrapping_add(1);
        let token = match list.as_slice() {
            [] => greatest(&logits) as u32,
            list => draw(list, [how.seed_low, how.seed_high], position),
        };
        if how.counted != 0 {
            memory.view_mut::<u32>(&args.counts)[sequence * vocabulary + token as usize] += 1;
        }
        let following =
            memory.view::<u32>(&args.outputs).get(output + 1).filter(|_| output + 1 < args.groups[0] as usize);
        let following = following.and_then(|&row| memory.view::<Row>(&args.rows).get(row as usize));
        if following.is_none_or(|following| following.live == 0 || following.sequence != row.sequence) {
            memory.view_mut::<Row>(&args.next)[sequence] = Row { token, position, live: 1, ..row };
        }
        let step = memory.view::<u32>(&args.clock)[CLOCK_RUNNING as usize];
        memory.view_mut::<u32>(&args.ring)[(step * args.ring_stride) as usize + output] = token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Random123's `kat_vectors`.
    #[test]
    fn philox_equals_the_published_vectors() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([!0; 4], [!0; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, random) in cases {
            assert_eq!(philox4x32_10(counter, key), random);
        }
    }

    #[test]
    fn nothing_but_nan_and_infinities_gives_token_zero() {
        let how = Sampling { temperature: 1.0, top_p: 1.0, ..Default::default() };
        for x in [f32::NAN, f32::NEG_INFINITY] {
            let logits = adjusted(&[x; 5], &how, &[], &[]);
            assert_eq!(distribution(&logits, &how), []);
            assert_eq!(greatest(&logits), 0);
        }
    }
}
