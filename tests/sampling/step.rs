//! Many sequences that decode side by side with `sample` alone, the logits held still.

use super::plain::Problem;
use hesper::kernels::{Bias, MAX_BIAS, Row, Sampling, sample};
use hesper::plan::{Builder, Executor, Plan, Region, Tensor};

/// Bytes of the region that a [`Batch`] may use.
pub const REGION_BYTES: u64 = 48 << 20;

/// Sequences of one vocabulary. Sequence i starts at `positions[i]`.
pub struct Batch<'a> {
    pub problems: &'a [Problem],
    pub positions: &'a [u32],
    pub lanes: u32,
}

struct Layout {
    end_bytes: u64,
}

impl Layout {
    fn place(&mut self, executor: &mut dyn Executor, bytes: &[u8]) -> Tensor {
        let tensor = self.skip(bytes.len());
        executor.write(tensor.region, tensor.offset_bytes, bytes);
        tensor
    }

    fn skip(&mut self, bytes: usize) -> Tensor {
        let tensor = Tensor::new(Region::Step, self.end_bytes, bytes as u64);
        self.end_bytes = tensor.end_bytes().next_multiple_of(256);
        assert!(self.end_bytes <= REGION_BYTES, "{} bytes do not fit", self.end_bytes);
        tensor
    }
}

impl Batch<'_> {
    fn vocabulary(&self) -> usize {
        self.problems[0].logits.len()
    }

    fn counts(&self) -> Vec<u32> {
        self.problems.iter().flat_map(|problem| problem.counts.iter().copied()).collect()
    }

    fn biases(&self) -> Vec<Bias> {
        let padded = |problem: &Problem| {
            let mut biases = problem.biases.clone();
            biases.resize(MAX_BIAS as usize, Bias::default());
            biases
        };
        self.problems.iter().flat_map(padded).collect()
    }

    fn plan(&self, executor: &mut dyn Executor) -> (Plan, Tensor, Tensor) {
        let sequences = self.problems.len();
        assert!(self.problems.iter().all(|problem| problem.logits.len() == self.vocabulary()), "one vocabulary");
        let row = |(sequence, &position)| Row { token: 0, position, sequence, live: 1 };
        let rows: Vec<Row> = (0u32..).zip(self.positions).map(row).collect();
        let logits: Vec<f32> = self.problems.iter().flat_map(|problem| problem.logits.iter().copied()).collect();
        let sampling: Vec<Sampling> = self.problems.iter().map(|problem| problem.how).collect();
        let outputs: Vec<u32> = (0..sequences as u32).collect();
        let mut layout = Layout { end_bytes: 0 };
        let logits = layout.place(executor, bytemuck::cast_slice(&logits));
        let outputs = layout.place(executor, bytemuck::cast_slice(&outputs));
        let mut rows = layout.place(executor, bytemuck::cast_slice(&rows));
        let sampling = layout.place(executor, bytemuck::cast_slice(&sampling));
        let biases = layout.place(executor, bytemuck::cast_slice(&self.biases()));
        let mut counts = layout.place(executor, bytemuck::cast_slice(&self.counts()));
        let masks = layout.place(executor, &vec![0; sequences * self.vocabulary().div_ceil(32) * 4]);
        let clock = layout.place(executor, &[0; 8]);
        let mut ring = layout.skip(sequences * 4);
        let mut scratch = layout.skip(sequences * self.vocabulary() * 8);
        let mut builder = Builder::default();
        builder.push(sample::dispatch(
            &sample::SAMPLE,
            sample::Spec { local_size: self.lanes, tile_rows: 1 },
            sample::Args {
                logits: &logits,
                outputs: &outputs,
                rows: &rows.clone(),
                sampling: &sampling,
                biases: &biases,
                masks: &masks,
                clock: &clock,
                counts: &mut counts,
                scratch: &mut scratch,
                next: &mut rows,
                ring: &mut ring,
                vocabulary: self.vocabulary() as u32,
                logits_stride: self.vocabulary() as u32,
                ring_stride: sequences as u32,
            },
            [sequences as u32, 1, 1],
        ));
        (builder.finish("sample"), counts, ring)
    }

    /// The tokens that each sequence draws in `steps` steps, with counts set back between them, so that a sequence's
    /// distribution stays the same.
    pub fn run(&self, executor: &mut dyn Executor, steps: u32) -> Vec<Vec<u32>> {
        let (plan, counts, ring) = self.plan(executor);
        let start = self.counts();
        let prepared = executor.prepare(&plan).expect("the plan is sound");
        let mut tokens = vec![Vec::new(); self.problems.len()];
        for _ in 0..steps {
            executor.write(counts.region, counts.offset_bytes, bytemuck::cast_slice(&start));
            executor.submit(prepared).expect("it runs");
            let ticket = executor.fence().expect("a fence");
            executor.wait(ticket).expect("it ends");
            for (sequence, tokens) in tokens.iter_mut().enumerate() {
                tokens.push(executor.load_u32(ring.region, ring.offset_bytes + sequence as u64 * 4));
            }
        }
        executor.release(prepared);
        tokens
    }
}
