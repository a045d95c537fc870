//! Cases of `sample`. Logits are small integers and temperatures make exponents of two of them, so that every driver's
//! exp2 gives the same integers and ties are everywhere; tests/sampling.rs has the distributions.

use crate::harness::{Case, Compare, Random};
use hesper::kernels::policy::Policy;
use hesper::kernels::sampling::{Begin, finish};
use hesper::kernels::{
    Bias, IN_PROMPT, MAX_BIAS, NO_ROW, NOT_SAMPLED, RING_STEPS, Row, SAMPLED_LAST, Sampling, sample,
};

pub fn cases() -> Vec<Case> {
    let alone =
        [(1, 4), (5, 8), (31, 32), (100, 4), (2003, 32), (2003, 64), (5000, 256)].map(|(v, lanes)| (v, lanes, 1));
    // By vectors.
    let together = [(1984, 8), (20_032, 16)].map(|(vocabulary, lanes)| (vocabulary, lanes, lanes));
    let shapes = alone.into_iter().chain(together);
    let shapes = shapes.map(|(vocabulary, local_size, tile_rows)| (vocabulary, sample::Spec { local_size, tile_rows }));
    let mut cases: Vec<Case> = shapes
        .clone()
        .flat_map(|(vocabulary, spec)| {
            [Logits::Steps, Logits::Equal, Logits::Wild].map(|kind| prefill(vocabulary, spec, kind))
        })
        .collect();
    cases.extend(shapes.map(|(vocabulary, spec)| decode(vocabulary, spec)));
    cases.push(drafted(2003, sample::Spec { local_size: 32, tile_rows: 1 }));
    cases.extend(
        [(0, 1, 0), (5, 4, 2), (6, 64, 32), (7, 40, 1)].map(|(step, rows, outputs)| begins(step, rows, outputs)),
    );
    cases.push(finishes());
    cases
}

/// Rows of which some continue what was sampled last, in a ring that goes round.
fn begins(step: u32, rows: u32, outputs: u32) -> Case {
    let mut case = Case::new(format!("begin step {step}, {rows} rows, {outputs} outputs"));
    let (row_stride, output_stride, sequences) = (64, 33, 40);
    let row = |i: u32| Row {
        token: if i % 3 == 1 { SAMPLED_LAST } else { i },
        position: 2 * i,
        sequence: i * 7 % sequences,
        live: i % 4,
    };
    let row_ring: Vec<Row> = (0..RING_STEPS * row_stride).map(row).collect();
    let output_ring: Vec<u32> = (0..RING_STEPS * output_stride).map(|i| i * 5 % 67).collect();
    let next: Vec<Row> =
        (0..sequences).map(|i| Row { token: 1000 + i, position: 500 + i, sequence: i, live: 1 }).collect();
    let (row_ring, output_ring, next) = (case.input(&row_ring), case.input(&output_ring), case.input(&next));
    let mut clock = case.in_out("clock", &[step + 3 * RING_STEPS, 99], Compare::Exact);
    let mut taken = case.output("rows", u64::from(rows) * 16, Compare::Exact);
    let mut listed = case.output("outputs", u64::from(outputs.max(1)) * 4, Compare::Exact);
    let begin = Begin {
        row_ring: &row_ring,
        output_ring: &output_ring,
        next: &next,
        row_stride,
        output_stride,
        row_count: rows,
        output_count: outputs,
    };
    case.dispatch(begin.dispatch(&mut clock, &mut taken, &mut listed));
    case
}

fn finishes() -> Case {
    let mut case = Case::new("finish");
    let (after, clock) = (case.input(&[0f32; 4]), case.input(&[9, 3]));
    let mut ring = case.in_out("ring", &[NOT_SAMPLED; 5 * RING_STEPS as usize], Compare::Exact);
    case.dispatch(finish(&after, &clock, &mut ring, 5));
    case
}

#[derive(Clone, Copy, Debug)]
enum Logits {
    /// Integers from -20 to 11.
    Steps,
    /// All the same.
    Equal,
    /// NaN, infinities, both zeros and extremes among others; one row of nothing but -inf.
    Wild,
}

/// Parameters whose order of the most probable and exact integers do not depend on rounding.
fn parameters() -> Vec<Sampling> {
    let off = Sampling { top_p: 1.0, repetition_penalty: 1.0, seed_low: 7, ..Default::default() };
    let warm = Sampling { temperature: std::f32::consts::LOG2_E, ..off };
    let filtered = Sampling { top_k: 40, top_p: 0.75, min_p: 0.02, ..warm };
    let penalties =
        Sampling { counted: 1, repetition_penalty: 2.0, presence_penalty: 1.0, frequency_penalty: 0.5, ..off };
    vec![
        off,
        warm,
        Sampling { top_k: 3, ..warm },
        Sampling { top_p: 0.5, seed_high: 9, ..warm },
        Sampling { min_p: 0.125, ..warm },
        filtered,
        penalties,
        Sampling { bias_count: 3, ..off },
        Sampling { bias_count: 40, counted: 1, repetition_penalty: 0.5, ..filtered },
        Sampling { temperature: 1e-38, top_p: 0.0, ..warm },
        Sampling { temperature: f32::INFINITY, min_p: 7.0, ..warm },
        Sampling { temperature: -1.0, top_k: u32::MAX, ..warm },
        Sampling { masked: 1, ..off },
        Sampling { masked: 1, bias_count: 40, counted: 1, repetition_penalty: 0.5, ..filtered },
    ]
}

fn logits(kind: Logits, vocabulary: usize, row: usize, random: &mut Random) -> Vec<f32> {
    // Nothing that is nearly equal to another: of exp2 near 0 drivers round the last bit either way.
    let wild = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN, 1.0, 3.0];
    (0..vocabulary)
        .map(|_| match kind {
            Logits::Steps => random.below(32) as f32 - 20.0,
            Logits::Equal => -7.5,
            Logits::Wild if row == 1 => f32::NEG_INFINITY,
            Logits::Wild if row % 3 == 2 => wild[3 + random.below(3) as usize],
            Logits::Wild => wild[random.below(10) as usize],
        })
        .collect()
}

/// The step of as many sequences as there are [`parameters`].
struct Step {
    vocabulary: usize,
    sampling: Vec<Sampling>,
    biases: Vec<Bias>,
    counts: Vec<u32>,
    masks: Vec<u32>,
}

impl Step {
    fn new(vocabulary: usize, random: &mut Random) -> Step {
        let sampling = parameters();
        let biases = (0..sampling.len() * MAX_BIAS as usize).map(|_| Bias {
            // Some are out of range and some tokens have several.
            token: random.below(vocabulary as u32 + 2),
            value: random.below(9) as f32 - 4.0,
        });
        let biases = biases.collect();
        let count = |random: &mut Random| match random.below(4) {
            0 => IN_PROMPT,
            1 => IN_PROMPT + 2,
            2 => 1 + random.below(3),
            _ => 0,
        };
        let counts = (0..sampling.len() * vocabulary).map(|_| count(random)).collect();
        // Some allow nothing: then token 0 is chosen.
        let word = |random: &mut Random| random.below(1 << 16) << 16 & random.below(u32::MAX) | random.below(4);
        let masks = (0..sampling.len() * vocabulary.div_ceil(32)).map(|_| word(random)).collect();
        Step { vocabulary, sampling, biases, counts, masks }
    }

    fn dispatch(&self, case: &mut Case, spec: sample::Spec, outputs: &[u32], logits: &[f32], rows: Rows<'_>) {
        let logits_stride = (logits.len() / outputs.len()) as u32;
        let logits = case.input(logits);
        let scratch_bytes = outputs.len() * self.vocabulary * 8;
        let outputs_tensor = case.input(outputs);
        let sequences = self.sampling.len();
        let (rows, mut next) = match rows {
            Rows::Apart(rows) => {
                let rows = case.input(rows);
                (rows, case.in_out("next", &vec![Row::default(); sequences], Compare::Exact))
            }
            Rows::Shared(rows) => {
                let next = case.in_out("next", rows, Compare::Exact);
                (next.clone(), next)
            }
        };
        let sampling = case.input(&self.sampling);
        let biases = case.input(&self.biases);
        let mut counts = case.in_out("counts", &self.counts, Compare::Exact);
        let masks = case.input(&self.masks);
        // The running step is the sixth in the ring.
        let clock = case.input(&[77, 5]);
        let ring_stride = outputs.len() + 3;
        let ring = vec![NOT_SAMPLED; ring_stride * RING_STEPS as usize];
        let mut ring = case.in_out("ring", &ring, Compare::Exact);
        let mut scratch = case.output("scratch", scratch_bytes as u64, Compare::Ignore);
        case.dispatch(sample::dispatch(
            &sample::SAMPLE,
            spec,
            sample::Args {
                logits: &logits,
                outputs: &outputs_tensor,
                rows: &rows,
                sampling: &sampling,
                biases: &biases,
                masks: &masks,
                clock: &clock,
                counts: &mut counts,
                scratch: &mut scratch,
                next: &mut next,
                ring: &mut ring,
                vocabulary: self.vocabulary as u32,
                logits_stride,
                ring_stride: ring_stride as u32,
            },
            [outputs.len() as u32, 1, 1],
        ));
    }
}

enum Rows<'a> {
    Apart(&'a [Row]),
    Shared(&'a [Row]),
}

/// Ways to choose, and how far a model's logits spread (their standard deviation): what a choice costs depends on both.
#[allow(dead_code)] // of the benchmark
pub fn real_choices() -> Vec<(String, Sampling, f32)> {
    let greedy = Sampling { top_p: 1.0, repetition_penalty: 1.0, seed_low: 7, ..Default::default() };
    let warm = Sampling { temperature: 1.0, ..greedy };
    let ways = [
        ("greedy", greedy),
        ("temperature 1", warm),
        ("top-k 20, top-p 0.8", Sampling { temperature: 0.7, top_k: 20, top_p: 0.8, ..warm }),
        ("top-p 0.9", Sampling { temperature: 0.7, top_p: 0.9, ..warm }),
        ("penalties, top-k 20", Sampling { counted: 1, frequency_penalty: 0.5, top_k: 20, ..warm }),
    ];
    let spreads = [("like a model's", 3.0), ("flat", 0.3)];
    let named = |(way, how): (&str, Sampling), (kind, deviation)| (format!("{way}, {kind}"), how, deviation);
    ways.into_iter().flat_map(|way| spreads.map(|spread| named(way, spread))).collect()
}

/// One output of a vocabulary of 151,936 tokens.
#[allow(dead_code)] // of the benchmark
pub fn real_choice(name: &str, how: Sampling, deviation: f32, policy: Policy) -> Case {
    let (vocabulary, mut random) = (151_936, Random::new(1));
    let mut case = Case::new(name);
    let mut normal = || (0..12).map(|_| random.below(1 << 16) as f32 / 65536.0).sum::<f32>() - 6.0;
    let logits: Vec<f32> = (0..vocabulary).map(|_| deviation * normal()).collect();
    let (local_size, tile_rows) = policy.sample_lanes(vocabulary, vocabulary);
    let step = Step {
        vocabulary: vocabulary as usize,
        sampling: vec![how],
        biases: vec![Bias::default(); MAX_BIAS as usize],
        counts: vec![0; vocabulary as usize],
        masks: vec![!0; vocabulary.div_ceil(32) as usize],
    };
    let rows = [Row { token: 1, position: 9, sequence: 0, live: 1 }];
    step.dispatch(&mut case, sample::Spec { local_size, tile_rows }, &[0], &logits, Rows::Shared(&rows));
    case
}

/// More rows than outputs, in another order than the sequences, one of them dead and one output without a row.
fn prefill(vocabulary: usize, spec: sample::Spec, kind: Logits) -> Case {
    let mut case = Case::new(format!("sample {vocabulary} tokens, {spec:?}, {kind:?}"));
    let mut random = Random::new(vocabulary as u64);
    let step = Step::new(vocabulary, &mut random);
    let sequences = step.sampling.len() as u32;
    let row = |i: u32| Row { token: 0, position: 4090 + i, sequence: (i + 5) % sequences, live: u32::from(i != 3) };
    let rows: Vec<Row> = (0..sequences).flat_map(|i| [Row::default(), row(i)]).collect();
    let outputs: Vec<u32> = (0..sequences).map(|i| if i == 6 { NO_ROW } else { 2 * i + 1 }).collect();
    let padding = if spec.tile_rows > 1 { 64 } else { 3 };
    let logits: Vec<f32> = (0..outputs.len())
        .flat_map(|o| {
            let mut row = logits(kind, vocabulary, o, &mut random);
            row.resize(vocabulary + padding, 1000.0);
            row
        })
        .collect();
    step.dispatch(&mut case, spec, &outputs, &logits, Rows::Apart(&rows));
    case
}

/// Several outputs of a sequence, of which the last is what was sampled last, between those of others.
fn drafted(vocabulary: usize, spec: sample::Spec) -> Case {
    let mut case = Case::new(format!("sample {vocabulary} tokens, {spec:?}, several of a sequence"));
    let mut random = Random::new(vocabulary as u64 + 2);
    let step = Step::new(vocabulary, &mut random);
    // Of sequences without penalties, since nothing can be counted side by side.
    let runs = [(4, 3), (0, 1), (5, 5), (2, 1), (1, 4)];
    let run = |(sequence, count)| (0..count).map(move |i| Row { token: 1, position: 70 + i, sequence, live: 1 });
    let mut rows: Vec<Row> = runs.into_iter().flat_map(run).collect();
    // A dead row behind them is nobody's, whatever its sequence.
    rows.push(Row { sequence: 1, ..Row::default() });
    let mut outputs: Vec<u32> = (0..rows.len() as u32).collect();
    outputs.resize(16, NO_ROW);
    let logits: Vec<f32> = (0..outputs.len()).flat_map(|o| logits(Logits::Steps, vocabulary, o, &mut random)).collect();
    step.dispatch(&mut case, spec, &outputs, &logits, Rows::Apart(&rows));
    case
}

/// Decoding in place: `next` is `rows`.
fn decode(vocabulary: usize, spec: sample::Spec) -> Case {
    let mut case = Case::new(format!("sample {vocabulary} tokens, {spec:?}, decoding in place"));
    let mut random = Random::new(vocabulary as u64 + 1);
    let step = Step::new(vocabulary, &mut random);
    let sequences = step.sampling.len() as u32;
    let rows: Vec<Row> = (0..sequences).map(|i| Row { token: 1, position: 9 * i, sequence: i, live: i % 5 }).collect();
    let outputs: Vec<u32> = (0..sequences).rev().collect();
    let logits: Vec<f32> = (0..outputs.len()).flat_map(|o| logits(Logits::Steps, vocabulary, o, &mut random)).collect();
    step.dispatch(&mut case, spec, &outputs, &logits, Rows::Shared(&rows));
    case
}
