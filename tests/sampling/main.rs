//! What `sample` draws, against distributions computed independently.

#[path = "../device/mod.rs"]
mod device;
mod plain;
mod step;

use hesper::kernels::{Bias, IN_PROMPT, Sampling};
use hesper::plan::{Executor, Region};
use hesper::reference::{self, sample};
use plain::{Problem, chi_square_deviate};
use proptest::prelude::*;
use step::{Batch, REGION_BYTES};

fn device() -> Option<Box<dyn Executor>> {
    let mut gpu = device::gpu()?;
    gpu.allocate(Region::Step, REGION_BYTES).expect("memory for the step");
    Some(Box::new(gpu))
}

fn twin() -> Box<dyn Executor> {
    let mut twin = reference::Reference::default();
    twin.allocate(Region::Step, REGION_BYTES).expect("host memory");
    Box::new(twin)
}

const OFF: Sampling = Sampling {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    seed_low: 0,
    seed_high: 0,
    bias_count: 0,
    counted: 0,
    masked: 0,
};

/// Words that look random, the same in every run.
fn noise(at: u32) -> u32 {
    sample::philox4x32_10([at, 1, 2, 3], [4, 5])[0]
}

/// Uniform in -1..1.
fn noise_float(at: u32) -> f32 {
    noise(at) as f32 / 2f32.powi(31) - 1.0
}

/// `spread` is the logits' range to either side.
fn problem(vocabulary: u32, spread: f32, how: Sampling) -> Problem {
    let logits = (0..vocabulary).map(|token| spread * noise_float(token)).collect();
    Problem { logits, how, biases: Vec::new(), counts: vec![0; vocabulary as usize] }
}

/// The same problem with penalties and biases on many tokens.
fn with_penalties(mut problem: Problem) -> Problem {
    let vocabulary = problem.logits.len() as u32;
    for token in (0..vocabulary).step_by(3) {
        problem.counts[token as usize] = (noise(token) % 4) | if token % 2 == 0 { IN_PROMPT } else { 0 };
    }
    problem.biases = (0..40).map(|n| Bias { token: noise(n) % vocabulary, value: 2.0 * noise_float(n) }).collect();
    problem.how = Sampling {
        repetition_penalty: 1.3,
        presence_penalty: 0.4,
        frequency_penalty: 0.2,
        bias_count: 40,
        counted: 1,
        ..problem.how
    };
    problem
}

/// `many` tokens where draws are spread over all, `some` elsewhere.
fn table(many: u32, some: u32) -> Vec<(&'static str, Problem)> {
    vec![
        ("temperature, flat", problem(many, 0.7, OFF)),
        ("temperature, steep", problem(some, 8.0, Sampling { temperature: 0.8, ..OFF })),
        ("all equal", problem(some, 0.0, OFF)),
        ("top-k", problem(some, 4.0, Sampling { top_k: 50, ..OFF })),
        ("top-k, all equal", problem(some, 0.0, Sampling { top_k: 77, ..OFF })),
        ("top-p", problem(some, 4.0, Sampling { top_p: 0.6, ..OFF })),
        ("min-p", problem(some, 4.0, Sampling { min_p: 0.3, ..OFF })),
        ("all filters", problem(some, 6.0, Sampling { top_k: 200, top_p: 0.9, min_p: 0.05, temperature: 1.5, ..OFF })),
        ("penalties and bias", with_penalties(problem(some, 1.5, OFF))),
        ("everything", with_penalties(problem(many, 3.0, Sampling { top_k: 300, top_p: 0.8, min_p: 0.1, ..OFF }))),
        ("few tokens", problem(7, 1.0, OFF)),
    ]
}

/// `sequences` copies with seeds of their own.
fn seeded(problem: &Problem, sequences: u32) -> Vec<Problem> {
    let with_seed = |seed: u32| {
        let how = Sampling { seed_low: noise(seed), seed_high: seed, ..problem.how };
        Problem { how, ..problem.clone() }
    };
    (0..sequences).map(with_seed).collect()
}

fn draws_follow(executor: &mut dyn Executor, sequences: u32, steps: u32, lanes: u32) {
    for (name, problem) in table(2003, 331) {
        let problems = seeded(&problem, sequences);
        let positions: Vec<u32> = (0..sequences).map(|sequence| 13 * sequence).collect();
        let batch = Batch { problems: &problems, positions: &positions, lanes };
        let mut observed = vec![0u64; problem.logits.len()];
        batch.run(executor, steps).iter().flatten().for_each(|&token| observed[token as usize] += 1);
        assert_eq!(observed.iter().sum::<u64>(), u64::from(sequences * steps));
        let deviate = chi_square_deviate(&observed, &problem.probabilities(1.0, 1.0));
        eprintln!("{name}: deviate {deviate:.2}");
        // One in 10,000 to either side.
        assert!(deviate.abs() < 3.72, "{name}: chi-square lies {deviate:.2} standard deviations off");
    }
}

#[test]
fn the_device_draws_from_the_distribution() {
    let Some(mut gpu) = device() else { return };
    draws_follow(&mut *gpu, 256, 80, 32);
}

#[test]
fn the_twin_draws_from_the_distribution() {
    draws_follow(&mut *twin(), 40, 15, 1);
}

#[test]
fn a_wrong_distribution_is_noticed() {
    let problem = problem(100, 2.0, OFF);
    let problems = seeded(&problem, 40);
    let batch = Batch { problems: &problems, positions: &[0; 40], lanes: 1 };
    let mut observed = vec![0u64; problem.logits.len()];
    batch.run(&mut *twin(), 50).iter().flatten().for_each(|&token| observed[token as usize] += 1);
    let warmer = Problem { how: Sampling { temperature: 2.0, ..OFF }, ..problem.clone() };
    let deviate = chi_square_deviate(&observed, &warmer.probabilities(1.0, 1.0));
    assert!(deviate > 3.72, "only {deviate:.2}");
    let cut = Problem { how: Sampling { top_k: 99, ..OFF }, ..problem };
    assert_eq!(chi_square_deviate(&observed, &cut.probabilities(1.0, 1.0)), f64::INFINITY);
}

/// What a sequence draws does not depend on the lanes, on its place in the batch or on the others.
#[test]
fn the_device_repeats_itself() {
    let Some(mut gpu) = device() else { return };
    let table: Vec<Problem> = table(2003, 2003).into_iter().map(|(_, problem)| problem).collect();
    let table: Vec<Problem> = table.into_iter().filter(|problem| problem.logits.len() == 2003).collect();
    let positions: Vec<u32> = (0..table.len() as u32).map(|at| 4000 + at).collect();
    let whole = Batch { problems: &table, positions: &positions, lanes: 32 }.run(&mut *gpu, 10);
    for lanes in [4, 24, 128] {
        assert_eq!(Batch { problems: &table, positions: &positions, lanes }.run(&mut *gpu, 10), whole, "{lanes} lanes");
    }
    for (at, tokens) in whole.iter().enumerate() {
        let alone = Batch { problems: &table[at..=at], positions: &positions[at..=at], lanes: 32 };
        assert_eq!(alone.run(&mut *gpu, 10)[0], *tokens, "row {at} alone");
    }
}

/// The two follow one definition; only exp2 rounds differently, which rarely moves a draw over a boundary.
#[test]
fn the_device_draws_what_its_twin_draws() {
    let Some(mut gpu) = device() else { return };
    let (mut draws, mut equal) = (0, 0);
    for (_, problem) in table(2003, 331) {
        let problems = seeded(&problem, 20);
        let batch = Batch { problems: &problems, positions: &[5; 20], lanes: 32 };
        let (found, expected) = (batch.run(&mut *gpu, 10), batch.run(&mut *twin(), 10));
        let pairs = found.iter().flatten().zip(expected.iter().flatten());
        draws += 200;
        equal += pairs.filter(|(found, expected)| found == expected).count();
    }
    eprintln!("{equal} of {draws} draws are equal");
    assert!(equal * 200 >= draws * 199, "only {equal} of {draws} draws are equal");
}

fn problems() -> impl Strategy<Value = Problem> {
    let logit = prop_oneof![(-12i32..12).prop_map(|x| x as f32 / 2.0), -9.0f32..9.0];
    let tokens = prop::collection::vec((logit, prop_oneof![3 => Just(0u32), 1 => any::<u32>()]), 1..400);
    let filters = (
        prop_oneof![Just(1.0f32), 0.05f32..4.0],
        prop_oneof![Just(0u32), 1u32..60],
        prop_oneof![Just(1.0f32), Just(0.5), 0.0f32..1.0],
        prop_oneof![Just(0.0f32), Just(0.1), 0.0f32..1.0],
    );
    let penalties = (any::<bool>(), 0.5f32..2.0, -1.0f32..1.0, -1.0f32..1.0);
    let biases = prop::collection::vec((any::<prop::sample::Index>(), -5.0f32..5.0), 0..20);
    (tokens, filters, penalties, biases).prop_map(|(tokens, filters, penalties, biases)| {
        let (temperature, top_k, top_p, min_p) = filters;
        let (counted, repetition_penalty, presence_penalty, frequency_penalty) = penalties;
        let count = |word: u32| if counted { word & (IN_PROMPT | 3) } else { 0 };
        let bias = |(index, value): (prop::sample::Index, f32)| Bias { token: index.index(tokens.len()) as u32, value };
        let how = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, ..OFF };
        let how = Sampling { frequency_penalty, counted: counted.into(), bias_count: biases.len() as u32, ..how };
        Problem {
            biases: biases.into_iter().map(bias).collect(),
            counts: tokens.iter().map(|&(_, word)| count(word)).collect(),
            logits: tokens.into_iter().map(|(logit, _)| logit).collect(),
            how,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Rounding may put a token on the other side of a threshold that it lies on: those of top-p and min-p are tried a
    /// little to either side.
    #[test]
    fn the_twin_keeps_what_a_plain_implementation_keeps(problem in problems()) {
        let adjusted = sample::adjusted(&problem.logits, &problem.how, &problem.biases, &problem.counts);
        let list = sample::distribution(&adjusted, &problem.how);
        let mass: f64 = list.iter().map(|&(_, units)| f64::from(units)).sum();
        let mut found = vec![0.0; problem.logits.len()];
        list.iter().for_each(|&(token, units)| found[token as usize] = f64::from(units) / mass);
        let apart = |top_p: f64, min_p: f64| -> f64 {
            let expected = problem.probabilities(top_p, min_p);
            found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).sum()
        };
        let factors = [1.0, 1.0 - 2e-5, 1.0 + 2e-5];
        let least = factors.iter().flat_map(|&top_p| factors.map(|min_p| apart(top_p, min_p))).fold(2.0, f64::min);
        prop_assert!(least < 1e-4, "{least} apart: {list:?}");
    }
}
