//! Runs one kernel on the GPU and its twin on the same bytes and compares. All tensors of a case lie in one mapped region
//! with canaries between them: bytes that are nobody's output must be unchanged on both sides.

use hesper::plan::{Builder, Dispatch, Executor, Plan, Region, Tensor};

const CANARY: u8 = 0xa5;
const GAP_BYTES: u64 = 256;

/// How an output is compared: every element within `absolute + relative × |expected|`; scratch not at all.
#[derive(Clone, Copy)]
pub enum Compare {
    Exact,
    Ignore,
    F32 {
        absolute: f32,
        relative: f32,
    },
    F16 {
        absolute: f32,
        relative: f32,
    },
    /// Blocks of a cache in Q8_0: quants within one, since a value may stand half-way between two, scales within a rounding.
    Quantized {
        head_dim: usize,
    },
}

#[derive(Default)]
pub struct Case {
    pub name: String,
    end_bytes: u64,
    inputs: Vec<(Tensor, Vec<u8>)>,
    outputs: Vec<(&'static str, Tensor, Compare)>,
    dispatches: Vec<Dispatch>,
}

impl Case {
    pub fn new(name: impl Into<String>) -> Case {
        Case { name: name.into(), ..Case::default() }
    }

    /// Lanes that a subgroup must have for vector loads, whose workgroups are one subgroup each; `None`: any number.
    pub fn lanes(&self) -> Option<u32> {
        let by_vectors = |dispatch: &&Dispatch| match dispatch.kernel.family {
            "repack" => false,
            "sample" => dispatch.specialization[1] > 1,
            _ => dispatch.kernel.name.ends_with("_woven"),
        };
        self.dispatches.iter().filter(by_vectors).map(|dispatch| dispatch.specialization[0]).find(|&lanes| lanes < 32)
    }

    fn place(&mut self, bytes: u64) -> Tensor {
        let offset = (self.end_bytes + GAP_BYTES).next_multiple_of(256);
        self.end_bytes = offset + bytes;
        Tensor::new(Region::Step, offset, bytes)
    }

    pub fn input<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> Tensor {
        let bytes = bytemuck::cast_slice(values).to_vec();
        let tensor = self.place(bytes.len() as u64);
        self.inputs.push((tensor.clone(), bytes));
        tensor
    }

    /// A tensor that the kernel writes; it starts as canaries.
    pub fn output(&mut self, name: &'static str, bytes: u64, compare: Compare) -> Tensor {
        let tensor = self.place(bytes);
        self.outputs.push((name, tensor.clone(), compare));
        tensor
    }

    /// A tensor that the kernel reads and writes.
    pub fn in_out<T: bytemuck::NoUninit>(&mut self, name: &'static str, values: &[T], compare: Compare) -> Tensor {
        let tensor = self.input(values);
        self.outputs.push((name, tensor.clone(), compare));
        tensor
    }

    pub fn dispatch(&mut self, dispatch: Dispatch) {
        self.dispatches.push(dispatch);
    }

    pub fn uses(&self, kernel: &str) -> bool {
        self.dispatches.iter().any(|dispatch| dispatch.kernel.name == kernel)
    }

    #[allow(dead_code)] // not every user asks
    pub fn dispatches(&self) -> &[Dispatch] {
        &self.dispatches
    }

    /// The region before anything has run.
    pub fn initial_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![CANARY; self.region_bytes() as usize];
        for (tensor, input) in &self.inputs {
            bytes[tensor.offset_bytes as usize..tensor.end_bytes() as usize].copy_from_slice(input);
        }
        bytes
    }

    fn plan(&self) -> Plan {
        let mut builder = Builder::default();
        self.dispatches.iter().cloned().for_each(|dispatch| builder.push(dispatch));
        builder.finish(self.name.clone())
    }

    /// The region's bytes after running on `executor`, whose [`Region::Step`] holds at least [`Case::region_bytes`].
    pub fn run(&self, executor: &mut dyn Executor) -> Vec<u8> {
        let mut bytes = self.initial_bytes();
        executor.write(Region::Step, 0, &bytes);
        let prepared = executor.prepare(&self.plan()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        executor.submit(prepared).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let ticket = executor.fence().expect("a fence");
        executor.wait(ticket).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        executor.read(Region::Step, 0, &mut bytes).expect("the region is readable");
        executor.release(prepared);
        bytes
    }

    pub fn region_bytes(&self) -> u64 {
        (self.end_bytes + GAP_BYTES).next_multiple_of(256)
    }

    /// The first difference between the two sides, in words, or `None`.
    pub fn difference(&self, expected: &[u8], actual: &[u8]) -> Option<String> {
        let mut is_output = vec![false; expected.len()];
        for (name, tensor, compare) in &self.outputs {
            let range = tensor.offset_bytes as usize..tensor.end_bytes() as usize;
            is_output[range.clone()].fill(true);
            if let Some(text) = compare.difference(&expected[range.clone()], &actual[range]) {
                return Some(format!("{}: {name}{text}", self.name));
            }
        }
        let stray = (0..expected.len()).find(|&at| !is_output[at] && actual[at] != self.initial_byte(at));
        stray.map(|at| format!("{}: byte {at} outside all outputs was overwritten", self.name))
    }

    fn initial_byte(&self, at: usize) -> u8 {
        let holder = self
            .inputs
            .iter()
            .find(|(tensor, _)| (tensor.offset_bytes as usize..tensor.end_bytes() as usize).contains(&at));
        holder.map_or(CANARY, |(tensor, input)| input[at - tensor.offset_bytes as usize])
    }
}

impl Compare {
    fn difference(self, expected: &[u8], actual: &[u8]) -> Option<String> {
        match self {
            Compare::Ignore => None,
            Compare::Exact => {
                let at = (0..expected.len()).find(|&at| expected[at] != actual[at])?;
                Some(format!(" byte {at}: {} instead of {}", actual[at], expected[at]))
            }
            Compare::F32 { absolute, relative } => {
                let floats = |bytes: &[u8]| bytemuck::allocation::pod_collect_to_vec::<u8, f32>(bytes);
                first_apart(&floats(expected), &floats(actual), absolute, relative)
            }
            Compare::F16 { absolute, relative } => {
                let floats = |bytes: &[u8]| -> Vec<f32> {
                    bytemuck::allocation::pod_collect_to_vec::<u8, half::f16>(bytes)
                        .into_iter()
                        .map(f32::from)
                        .collect()
                };
                first_apart(&floats(expected), &floats(actual), absolute, relative)
            }
            Compare::Quantized { head_dim } => {
                let mut blocks = expected.chunks(34 * head_dim).zip(actual.chunks(34 * head_dim)).enumerate();
                blocks.find_map(|(index, (expected, actual))| {
                    let ((expected, expected_scales), (actual, actual_scales)) =
                        (expected.split_at(32 * head_dim), actual.split_at(32 * head_dim));
                    let quant =
                        (0..expected.len()).find(|&at| (expected[at] as i8).abs_diff(actual[at] as i8) > 1).map(|at| {
                            format!(" block {index}, quant {at}: {} not {}", actual[at] as i8, expected[at] as i8)
                        });
                    let scales = Compare::F16 { absolute: 1e-7, relative: 1e-3 };
                    quant.or_else(|| scales.difference(expected_scales, actual_scales))
                })
            }
        }
    }
}

fn first_apart(expected: &[f32], actual: &[f32], absolute: f32, relative: f32) -> Option<String> {
    let close = |e: f32, a: f32| e.to_bits() == a.to_bits() || (a - e).abs() <= absolute + relative * e.abs();
    let at = (0..expected.len()).find(|&at| !close(expected[at], actual[at]))?;
    Some(format!("[{at}]: {} instead of {}", actual[at], expected[at]))
}

/// A small deterministic generator for test data (xorshift64*, Vigna 2016).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        ((self.next() >> 33) % u64::from(bound)) as u32
    }

    /// Uniform in -1..1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}
