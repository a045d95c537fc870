//! The check of a driver at start: it runs every kernel that the model uses, and names the one that is wrong.

use crate::synthetic::{self, Formats, Shape, Synthetic, TINY};
use hesper::engine::runner::{KvType, Options, Planned};
use hesper::engine::self_test::self_test;
use hesper::gguf::{BlockFormat, Gguf};
use hesper::kernels::policy::Policy;
use hesper::model::ModelError;
use hesper::model::dims::Dims;
use hesper::model::excerpt::excerpt;
use hesper::plan::{Executor, ExecutorError, Plan, Prepared, Region, Tensor, Ticket};
use hesper::reference::{Checked, Reference, checked};
use std::collections::BTreeSet;

const POLICIES: [Policy; 4] =
    [Policy::SOFTWARE, Policy { side_by_side: 2, ..Policy::SOFTWARE }, Policy::of(true, 4), Policy::GPU];

/// Larger than a piece in every size that can be cut, and ragged.
const LARGE: Shape = Shape { layers: 3, width: 800, feed_forward: 1060, vocabulary: 1030, ..TINY };

/// Of whole blocks of the K formats.
const MEDIUM: Shape = Shape { layers: 2, width: 256, head_dim: 64, rotary: 64, feed_forward: 256, ..TINY };

fn open(model: &Synthetic) -> Gguf {
    Gguf::parse(&model.name, model.gguf()).unwrap_or_else(|error| panic!("{error}"))
}

/// With contexts for which a GPU has all of its plans.
fn options(policy: Policy, kv_type: KvType) -> Options {
    Options { context_tokens: Some(4096), sequences: 4, kv_type, ..Options::alone(policy) }
}

/// The kinds of dispatch that a model uses when it serves.
fn used(gguf: &Gguf, options: &Options) -> BTreeSet<checked::Kind> {
    let planned = Planned::new(gguf, options).unwrap_or_else(|error| panic!("{error}"));
    planned.plans().flat_map(|plan| checked::kinds(&plan).collect::<Vec<_>>()).collect()
}

#[test]
fn every_kernel_that_a_model_uses_is_run() {
    let large = Synthetic::new(LARGE, Formats::All(BlockFormat::Q8_0));
    // With parts that are fused and parts that are not, ragged, with biases, without a norm of queries.
    let names = ["qwen3-plain-mixed", "qwen2-ragged-q8_0", "llama-factors-f16"];
    let odd = synthetic::all().into_iter().filter(|model| names.contains(&model.name.as_str()));
    // With chains of two formats, and attention in them.
    let medium = Synthetic::new(MEDIUM, Formats::Medium);
    let models: Vec<_> = odd.chain([large, medium]).collect();
    assert_eq!(models.len(), names.len() + 2);
    let mut quantized = 0;
    let types = |model: &Synthetic| match model.shape.head_dim.is_multiple_of(KvType::GROUP) {
        true => &[KvType::F16, KvType::Q8_0][..],
        false => &[KvType::F16],
    };
    for model in &models {
        let gguf = open(model);
        for (policy, kv_type) in POLICIES.iter().flat_map(|policy| types(model).iter().map(move |kv| (*policy, *kv))) {
            let options = options(policy, kv_type);
            quantized += u32::from(kv_type == KvType::Q8_0);
            let checked = Checked::new(Reference::default());
            self_test(&gguf, &options, Box::new(checked.clone()))
                .unwrap_or_else(|error| panic!("{} with {policy:?}: {error}", model.name));
            let (_, seen) = checked.into_device().expect("the runner is gone");
            let left_out: Vec<_> = used(&gguf, &options).difference(&seen).cloned().collect();
            assert!(left_out.is_empty(), "{} with {policy:?}: {left_out:?} was not run", model.name);
            assert!(seen.iter().any(|(kernel, _)| kernel.starts_with("repack")), "weights are loaded too");
        }
    }
    assert_eq!(quantized, 12, "three of the models suit a quantized cache");
}

#[test]
fn an_excerpt_is_small_and_keeps_what_kernels_are_specialized_for() {
    let gguf = open(&Synthetic::new(LARGE, Formats::All(BlockFormat::Q8_0)));
    let (architecture, whole) = Dims::read(&gguf).expect("the model is well made");
    let small = excerpt(&gguf, 1).expect("it can be cut");
    let (same, dims) = Dims::read(&small).expect("the excerpt is well made");
    assert_eq!(architecture, same);
    let expected = Dims {
        layers: 1,
        width: 256 + 800 % 256,
        feed_forward: 256 + 1060 % 256,
        vocabulary: 256 + 1030 % 256,
        ..whole
    };
    assert_eq!(dims, expected);
    assert!(small.file_bytes() * 4 < gguf.file_bytes());
}

/// The reference, but for one kernel, of whose results it changes one byte.
struct Wrong {
    reference: Reference,
    kernel: &'static str,
    /// For each plan, what the kernel writes.
    plans: Vec<Vec<Tensor>>,
}

impl Executor for Wrong {
    fn allocate(&mut self, region: Region, bytes: u64) -> Result<(), ExecutorError> {
        self.reference.allocate(region, bytes)
    }

    fn free(&mut self, region: Region) -> Result<(), ExecutorError> {
        self.reference.free(region)
    }

    fn prepare(&mut self, plan: &Plan) -> Result<Prepared, ExecutorError> {
        let written = plan
            .dispatches()
            .filter(|dispatch| dispatch.kernel.name == self.kernel)
            .flat_map(|dispatch| {
                let operands = dispatch.accesses();
                operands.filter(|(_, info)| info.writable && info.name != "scratch").map(|(tensor, _)| tensor)
            })
            .cloned()
            .collect();
        self.plans.push(written);
        self.reference.prepare(plan)
    }

    fn release(&mut self, prepared: Prepared) {
        self.reference.release(prepared);
    }

    fn submit(&mut self, prepared: Prepared) -> Result<(), ExecutorError> {
        self.reference.submit(prepared)?;
        for tensor in &self.plans[prepared.0] {
            // The high byte of the second word: the sign and exponent of a float.
            let mut byte = [0];
            let offset = tensor.offset_bytes + 7.min(tensor.bytes - 1);
            self.reference.read(tensor.region, offset, &mut byte)?;
            self.reference.write(tensor.region, offset, &[byte[0] ^ 0x41]);
        }
        Ok(())
    }

    fn fence(&mut self) -> Result<Ticket, ExecutorError> {
        self.reference.fence()
    }

    fn wait(&mut self, ticket: Ticket) -> Result<(), ExecutorError> {
        self.reference.wait(ticket)
    }

    fn write(&mut self, region: Region, offset_bytes: u64, bytes: &[u8]) {
        self.reference.write(region, offset_bytes, bytes);
    }

    fn load_u32(&self, region: Region, offset_bytes: u64) -> u32 {
        self.reference.load_u32(region, offset_bytes)
    }

    fn read(&mut self, region: Region, offset_bytes: u64, out: &mut [u8]) -> Result<(), ExecutorError> {
        self.reference.read(region, offset_bytes, out)
    }
}

#[test]
fn a_kernel_that_is_wrong_is_named() {
    let wide = Shape { head_dim: 32, rotary: 32, ..TINY };
    for (policy, shape, kv_type) in [
        (Policy::SOFTWARE, TINY, KvType::F16),
        (Policy::GPU, TINY, KvType::F16),
        (Policy::SOFTWARE, wide, KvType::Q8_0),
    ] {
        let gguf = open(&Synthetic::new(shape, Formats::Mixed));
        let options = options(policy, kv_type);
        let kernels: BTreeSet<&str> = used(&gguf, &options).into_iter().map(|(kernel, _)| kernel).collect();
        assert!(kernels.len() >= 7, "{kernels:?}");
        for kernel in kernels {
            let device = Wrong { reference: Reference::default(), kernel, plans: Vec::new() };
            match self_test(&gguf, &options, Box::new(Checked::new(device))) {
                Err(ModelError::Device(ExecutorError::Wrong { kernel: named, what })) => {
                    assert_eq!(named, kernel, "{what}");
                    assert!(what.contains(" instead of "), "{what}");
                }
                other => panic!("{kernel} with {policy:?} is wrong, but: {other:?}"),
            }
        }
    }
}
