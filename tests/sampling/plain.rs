//! The filters as a textbook has them, in f64 and by sorting: independent of kernel and twin.

use hesper::kernels::{Bias, IN_PROMPT, Sampling};

/// One sequence's next-token problem.
#[derive(Clone, Debug)]
pub struct Problem {
    pub logits: Vec<f32>,
    pub how: Sampling,
    pub biases: Vec<Bias>,
    pub counts: Vec<u32>,
}

impl Problem {
    fn adjusted(&self) -> Vec<f64> {
        let how = &self.how;
        let mut out: Vec<f64> = self.logits.iter().map(|&x| f64::from(x)).collect();
        for bias in &self.biases {
            out[bias.token as usize] += f64::from(bias.value);
        }
        for (x, &count) in out.iter_mut().zip(&self.counts).filter(|(_, count)| **count != 0) {
            let repetition = f64::from(how.repetition_penalty);
            *x = if *x > 0.0 { *x / repetition } else { *x * repetition };
            let answered = f64::from(count & !IN_PROMPT);
            *x -= f64::from(how.presence_penalty) * answered.min(1.0) + f64::from(how.frequency_penalty) * answered;
        }
        out
    }

    /// The probability of each token, with the thresholds of top-p and min-p moved by these factors.
    pub fn probabilities(&self, top_p_factor: f64, min_p_factor: f64) -> Vec<f64> {
        let how = &self.how;
        let logits = self.adjusted();
        let greatest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weight = |x: f64| ((x - greatest) / f64::from(how.temperature)).exp();
        let mut list: Vec<(usize, f64)> = logits.iter().map(|&x| weight(x)).enumerate().collect();
        list.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if how.top_k > 0 {
            list.truncate(how.top_k as usize);
        }
        normalize(&mut list);
        if how.top_p < 1.0 {
            let mut sum = 0.0;
            let mut kept = 0;
            while kept < list.len() && (kept == 0 || sum < f64::from(how.top_p) * top_p_factor) {
                sum += list[kept].1;
                kept += 1;
            }
            list.truncate(kept);
        }
        let least = list[0].1 * f64::from(how.min_p) * min_p_factor;
        list.retain(|&(_, probability)| probability >= least);
        normalize(&mut list);
        let mut out = vec![0.0; logits.len()];
        list.into_iter().for_each(|(token, probability)| out[token] = probability);
        out
    }
}

fn normalize(list: &mut [(usize, f64)]) {
    let sum: f64 = list.iter().map(|(_, weight)| weight).sum();
    list.iter_mut().for_each(|(_, weight)| *weight /= sum);
}

/// Pearson's statistic of observed counts against probabilities, as a standard normal deviate by Wilson and Hilferty's
/// cube root ("The Distribution of Chi-Square", 1931). Cells are merged, in the order of the tokens, until each
/// expects at least five. Infinite where a token of probability 0 was seen.
pub fn chi_square_deviate(observed: &[u64], probabilities: &[f64]) -> f64 {
    let draws: u64 = observed.iter().sum();
    let mut cells: Vec<(f64, f64)> = Vec::new();
    let mut open = (0.0, 0.0);
    for (&seen, &probability) in observed.iter().zip(probabilities) {
        if probability == 0.0 && seen > 0 {
            return f64::INFINITY;
        }
        open = (open.0 + seen as f64, open.1 + probability * draws as f64);
        if open.1 >= 5.0 {
            cells.push(std::mem::take(&mut open));
        }
    }
    if let Some(last) = cells.last_mut() {
        *last = (last.0 + open.0, last.1 + open.1);
    }
    assert!(cells.len() > 3, "too few cells to say anything");
    let statistic: f64 = cells.iter().map(|(seen, expected)| (seen - expected).powi(2) / expected).sum();
    let ninth = 2.0 / (9.0 * (cells.len() - 1) as f64);
    ((statistic / (cells.len() - 1) as f64).cbrt() - (1.0 - ninth)) / ninth.sqrt()
}

#[test]
fn the_deviate_equals_tables() {
    // The upper 1 % point of chi-square with 10 degrees of freedom is 23.209; z is then 2.326.
    let deviation = (23.209f64 / 11.0).sqrt();
    let draws = 11_000_000.0;
    let unit = (draws / 11.0f64).sqrt();
    let mut observed = vec![1_000_000u64; 11];
    for (cell, sign) in observed.iter_mut().zip([1.0, -1.0].iter().cycle()).take(10) {
        *cell = (*cell as f64 + sign * deviation * (11.0f64 / 10.0).sqrt() * unit) as u64;
    }
    let z = chi_square_deviate(&observed, &[1.0 / 11.0; 11]);
    assert!((z - 2.326).abs() < 0.02, "{z}");
}
