//! A device held against the twins: plans run on it one dispatch at a time, and the first dispatch of every kind is also
//! run by its twin, on the same input. So a driver that computes wrongly is found before it answers anyone, and the kernel
//! that it gets wrong has a name.

use super::{Memory, twin};
use crate::kernels::BLOCK_TOKENS;
use crate::kernels::attention::KvType;
use crate::kernels::chains::stage_kind;
use crate::plan::{Command, Dispatch, Executor, ExecutorError, Kernel, Plan, Prepared, Region, Tensor, Ticket};
use half::f16;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A kernel with its specialization: what a driver compiles.
pub type Kind = (&'static str, Vec<u32>);

/// The kinds of dispatch in a plan.
pub fn kinds(plan: &Plan) -> impl Iterator<Item = Kind> {
    plan.dispatches().flat_map(kinds_of)
}

/// One for each of its stages, or for itself: stages are no specialization to the driver, but what they ask of the kernel is.
fn kinds_of(dispatch: &Dispatch) -> impl Iterator<Item = Kind> {
    let own = &dispatch.specialization;
    dispatch.parts().iter().map(|part| {
        let kind = stage_kind(dispatch.kernel, part.kernel);
        (dispatch.kernel.name, [own.as_slice(), &[kind], &part.specialization].concat())
    })
}

/// How what a kernel writes is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// 32-bit floats, within a thousandth of the largest that was written: rounding differs, and so does the order of sums.
    Float,
    /// 16-bit floats, within two of their last bits of the largest.
    Half,
    /// Blocks of a quantized cache: quants within one, since a value may stand half-way between two, and scales as halves.
    /// The size of a head is the dispatch's.
    Quantized { head_dim: usize },
    /// Bits, exactly.
    Word,
    /// The kernel's own notes.
    Private,
}

/// Shader, or the one variant of it that is meant, and operand, for everything that kernels write.
const WRITTEN: &[(&str, &str, Element)] = &[
    ("attend", "attended", Element::Float),
    ("attend", "keys", Element::Half),
    ("attend", "values", Element::Half),
    ("attend_q8_0", "keys", Element::Quantized { head_dim: 0 }),
    ("attend_q8_0", "values", Element::Quantized { head_dim: 0 }),
    ("attend_split_q8_0", "keys", Element::Quantized { head_dim: 0 }),
    ("attend_split_q8_0", "values", Element::Quantized { head_dim: 0 }),
    ("begin", "clock", Element::Word),
    ("begin", "rows", Element::Word),
    ("begin", "outputs", Element::Word),
    ("chain", "arrived", Element::Private),
    ("copy", "y", Element::Word),
    ("embed", "y", Element::Float),
    ("embed", "normed", Element::Float),
    ("embed", "squares", Element::Float),
    ("finish", "ring", Element::Word),
    ("fma", "y", Element::Float),
    ("mat_mul", "y", Element::Float),
    ("mat_mul", "normed", Element::Float),
    ("mat_mul", "squares", Element::Float),
    ("meet", "arrived", Element::Word),
    ("meet", "y", Element::Word),
    ("merge", "y", Element::Float),
    ("norm", "y", Element::Float),
    ("norm", "scale", Element::Float),
    ("read", "y", Element::Word),
    ("repack", "weight", Element::Word),
    ("rope_store", "q", Element::Float),
    ("rope_store", "keys", Element::Half),
    ("rope_store", "values", Element::Half),
    ("rope_store_q8_0", "keys", Element::Quantized { head_dim: 0 }),
    ("rope_store_q8_0", "values", Element::Quantized { head_dim: 0 }),
    ("sample", "counts", Element::Word),
    ("sample", "scratch", Element::Private),
    ("sample", "next", Element::Word),
    ("sample", "ring", Element::Word),
];

/// The index in [`WRITTEN`] of what a kernel writes.
fn written(kernel: &Kernel, operand: &str) -> Option<usize> {
    let of = |shader: &str| WRITTEN.iter().position(|(name, other, _)| *name == shader && *other == operand);
    of(kernel.name).or_else(|| of(kernel.family))
}

fn element(dispatch: &Dispatch, operand: &str) -> Option<Element> {
    let (_, _, element) = WRITTEN[written(dispatch.kernel, operand)?];
    let constant = |name: &str| dispatch.kernel.specialization.iter().position(|constant| constant.name == name);
    Some(match element {
        Element::Quantized { .. } => {
            Element::Quantized { head_dim: dispatch.specialization[constant("head_dim")?] as usize }
        }
        other => other,
    })
}

/// An executor over a device and the twins. Clones share both.
pub struct Checked<D> {
    both: Arc<Mutex<Both<D>>>,
}

struct Both<D> {
    device: D,
    memory: Memory,
    plans: Vec<Option<Vec<(Dispatch, Prepared)>>>,
    seen: BTreeSet<Kind>,
}

impl<D> Clone for Checked<D> {
    fn clone(&self) -> Checked<D> {
        Checked { both: self.both.clone() }
    }
}

impl<D> Checked<D> {
    pub fn new(device: D) -> Checked<D> {
        let both = Both { device, memory: Memory::default(), plans: Vec::new(), seen: BTreeSet::new() };
        Checked { both: Arc::new(Mutex::new(both)) }
    }

    fn both(&self) -> MutexGuard<'_, Both<D>> {
        // What a panic has left behind is not used for anything but giving the device back.
        self.both.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device, and the kinds of dispatch that were compared. `None` while there is a clone.
    pub fn into_device(self) -> Option<(D, BTreeSet<Kind>)> {
        let both = Arc::into_inner(self.both)?.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some((both.device, both.seen))
    }
}

impl<D: Executor> Both<D> {
    fn run(&mut self, dispatch: &Dispatch, prepared: Prepared) -> Result<(), ExecutorError> {
        // What `sample` does depends on its input so much that every run counts.
        let seen = self.seen.len();
        self.seen.extend(kinds_of(dispatch));
        let again = self.seen.len() == seen && dispatch.kernel.family != "sample";
        let twin = twin(dispatch.kernel.family).filter(|_| !again);
        let Some(twin) = twin else { return self.device.submit(prepared) };
        for (operand, _) in dispatch.accesses() {
            let bytes = self.device_bytes(operand)?;
            self.memory.write_bytes(operand.region, operand.offset_bytes, &bytes);
        }
        let operands = |part| Dispatch::accesses(part).map(move |(tensor, info)| (part, tensor, info));
        let written = || dispatch.parts().iter().flat_map(operands).filter(|(_, _, info)| info.writable);
        let before: Vec<Vec<u8>> = written().map(|(_, tensor, _)| self.memory.view::<u8>(tensor).to_vec()).collect();
        let start = Instant::now();
        self.device.submit(prepared)?;
        twin(dispatch, &mut self.memory);
        let twin_us = start.elapsed().as_micros();
        let ticket = self.device.fence()?;
        self.device.wait(ticket)?;
        // Some drivers compile a kernel when it first runs.
        let kernel = dispatch.kernel.name;
        tracing::debug!(kernel, label = dispatch.label, twin_us, first_run_us = start.elapsed().as_micros(), "checked");
        for ((part, tensor, info), before) in written().zip(&before) {
            let found = self.device_bytes(tensor)?;
            let element = element(part, info.name).unwrap_or(Element::Word);
            let expected = self.memory.view::<u8>(tensor);
            if let Some(difference) = difference(element, before, expected, &found) {
                let what = format!("{difference} in {} of {}", info.name, part.label);
                return Err(ExecutorError::Wrong { kernel: dispatch.kernel.name, what });
            }
        }
        Ok(())
    }

    /// What a tensor holds on the device, once everything submitted is done.
    fn device_bytes(&mut self, tensor: &Tensor) -> Result<Vec<u8>, ExecutorError> {
        let mut bytes = vec![0; tensor.bytes as usize];
        self.device.read(tensor.region, tensor.offset_bytes, &mut bytes)?;
        Ok(bytes)
    }
}

/// The first element that is not what it should be, in words.
fn difference(element: Element, before: &[u8], expected: &[u8], found: &[u8]) -> Option<String> {
    match element {
        Element::Private => None,
        Element::Quantized { head_dim } => quantized_difference(head_dim, before, expected, found),
        Element::Word => {
            let at = expected.chunks(4).zip(found.chunks(4)).position(|(expected, found)| expected != found)?;
            let word = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
            let [expected, found] = [expected, found].map(|bytes| word(bytes.chunks(4).nth(at).unwrap_or_default()));
            Some(format!("word {at} is {found:#010x} instead of {expected:#010x}"))
        }
        Element::Float => {
            let floats =
                |bytes: &[u8]| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            float_difference(1e-3, floats(before), floats(expected), floats(found))
        }
        Element::Half => {
            let floats =
                |bytes: &[u8]| bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
            float_difference(2e-3, floats(before), floats(expected), floats(found))
        }
    }
}

/// The same of a cache in [`KvType::Q8_0`].
fn quantized_difference(head_dim: usize, before: &[u8], expected: &[u8], found: &[u8]) -> Option<String> {
    let quants_bytes = BLOCK_TOKENS as usize * head_dim;
    let block_bytes = BLOCK_TOKENS as usize * KvType::Q8_0.head_bytes(head_dim as u32) as usize;
    let is_quant = |at: usize| at % block_bytes < quants_bytes;
    if let Some(at) = (0..expected.len()).find(|&at| is_quant(at) && expected[at].abs_diff(found[at]) > 1) {
        return Some(format!("byte {at} is {} instead of {}", found[at], expected[at]));
    }
    let scales = |bytes: &[u8]| -> Vec<u8> {
        bytes.chunks(block_bytes).flat_map(|block| &block[quants_bytes.min(block.len())..]).copied().collect()
    };
    let difference = difference(Element::Half, &scales(before), &scales(expected), &scales(found))?;
    Some(format!("of the scales, {difference}"))
}

/// `tolerance` is a share of the largest value that the twin has written. What it left alone may hold anything.
fn float_difference(tolerance: f32, before: Vec<f32>, expected: Vec<f32>, found: Vec<f32>) -> Option<String> {
    let written = before.iter().zip(&expected).filter(|(before, expected)| before.to_bits() != expected.to_bits());
    let largest = written.map(|(_, expected)| expected.abs()).filter(|value| value.is_finite()).fold(0.0, f32::max);
    let differs = |expected: f32, found: f32| {
        let close = (found - expected).abs() <= tolerance * largest;
        expected.to_bits() != found.to_bits() && !close && !(expected.is_nan() && found.is_nan())
    };
    let at = expected.iter().zip(&found).position(|(expected, found)| differs(*expected, *found))?;
    Some(format!("value {at} is {:e} instead of {:e}", found[at], expected[at]))
}

impl<D: Executor> Executor for Checked<D> {
    fn allocate(&mut self, region: Region, bytes: u64) -> Result<(), ExecutorError> {
        let mut both = self.both();
        both.memory.allocate(region, bytes)?;
        both.device.allocate(region, bytes)
    }

    fn free(&mut self, region: Region) -> Result<(), ExecutorError> {
        let mut both = self.both();
        both.memory.free(region);
        both.device.free(region)
    }

    fn prepare(&mut self, plan: &Plan) -> Result<Prepared, ExecutorError> {
        let mut both = self.both();
        let mut prepared = Vec::new();
        for dispatch in plan.dispatches() {
            let mut dispatch = dispatch.clone();
            if dispatch.label.is_empty() {
                dispatch.label.clone_from(&plan.name);
            }
            let commands = vec![Command::Dispatch(dispatch.clone())];
            let alone = Plan { name: plan.name.clone(), commands, arena_bytes: plan.arena_bytes };
            prepared.push((dispatch, both.device.prepare(&alone)?));
        }
        both.plans.push(Some(prepared));
        Ok(Prepared(both.plans.len() - 1))
    }

    fn release(&mut self, prepared: Prepared) {
        let mut both = self.both();
        for (_, prepared) in both.plans[prepared.0].take().expect("the plan is prepared") {
            both.device.release(prepared);
        }
    }

    fn submit(&mut self, prepared: Prepared) -> Result<(), ExecutorError> {
        let mut both = self.both();
        let plan = both.plans[prepared.0].take().expect("the plan is prepared");
        let outcome = plan.iter().try_for_each(|(dispatch, prepared)| both.run(dispatch, *prepared));
        both.plans[prepared.0] = Some(plan);
        outcome
    }

    fn fence(&mut self) -> Result<Ticket, ExecutorError> {
        self.both().device.fence()
    }

    fn wait(&mut self, ticket: Ticket) -> Result<(), ExecutorError> {
        self.both().device.wait(ticket)
    }

    fn write(&mut self, region: Region, offset_bytes: u64, bytes: &[u8]) {
        self.both().device.write(region, offset_bytes, bytes);
    }

    fn load_u32(&self, region: Region, offset_bytes: u64) -> u32 {
        self.both().device.load_u32(region, offset_bytes)
    }

    fn read(&mut self, region: Region, offset_bytes: u64, out: &mut [u8]) -> Result<(), ExecutorError> {
        self.both().device.read(region, offset_bytes, out)
    }

    fn submissions(&self) -> Option<u64> {
        self.both().device.submissions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::KERNELS;

    #[test]
    fn it_is_known_how_to_compare_whatever_a_kernel_writes() {
        let mut known = BTreeSet::new();
        for kernel in KERNELS {
            for operand in kernel.operands.iter().filter(|operand| operand.writable) {
                let entry = written(kernel, operand.name);
                known.insert(entry.unwrap_or_else(|| panic!("{} writes {}", kernel.name, operand.name)));
            }
        }
        assert_eq!(known.len(), WRITTEN.len(), "entries that no kernel has");
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn rounding_is_no_difference_and_a_wrong_value_is() {
        let (before, expected) = (bytes(&[9e9, 0.0, 0.0, f32::NAN]), bytes(&[9e9, 1.0, -2.0, f32::NAN]));
        let compare = |found: &[f32]| difference(Element::Float, &before, &expected, &bytes(found));
        assert_eq!(compare(&[9e9, 1.001, -1.999, f32::NAN]), None);
        // Not measured by what stood there before, however large.
        assert_eq!(compare(&[9e9, 1.1, -2.0, f32::NAN]).expect("it is off"), "value 1 is 1.1e0 instead of 1e0");
        compare(&[9e9, 1.0, f32::NAN, f32::NAN]).expect("not a number");
        compare(&[9e9, 0.0, 0.0, f32::NAN]).expect("nothing was written");
        compare(&[1.0, 1.0, -2.0, f32::NAN]).expect("it wrote where it should not");
    }

    #[test]
    fn quants_may_be_one_off_and_scales_by_a_rounding() {
        // Two blocks of a head of 32 dimensions: 1024 quants and 32 scales of one half each.
        const BLOCK: usize = 1088;
        let before = vec![0u8; 2 * BLOCK];
        let mut expected = before.clone();
        expected[BLOCK + 5] = 200;
        expected[BLOCK + 1026..BLOCK + 1028].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        let compare = |at: usize, bytes: &[u8]| {
            let mut found = expected.clone();
            found[at..at + bytes.len()].copy_from_slice(bytes);
            difference(Element::Quantized { head_dim: 32 }, &before, &expected, &found)
        };
        assert_eq!(compare(BLOCK + 5, &[201]), None);
        assert_eq!(compare(BLOCK + 5, &[202]).expect("two off"), "byte 1093 is 202 instead of 200");
        assert_eq!(compare(BLOCK + 1026, &f16::from_f32(0.5005).to_le_bytes()), None);
        let text = compare(BLOCK + 1026, &f16::from_f32(0.51).to_le_bytes()).expect("two per cent off");
        assert!(text.starts_with("of the scales, value 33 is 5.09"), "{text}");
        compare(1024, &f16::from_f32(0.25).to_le_bytes()).expect("it wrote where it should not");
    }

    #[test]
    fn words_are_compared_exactly() {
        let compare = |found: &[u8]| difference(Element::Word, &[], &[1, 2, 3, 4, 5, 6, 7, 8], found);
        assert_eq!(compare(&[1, 2, 3, 4, 5, 6, 7, 8]), None);
        let text = compare(&[1, 2, 3, 4, 5, 6, 7, 9]).expect("the last byte differs");
        assert_eq!(text, "word 1 is 0x09070605 instead of 0x08070605");
        assert_eq!(difference(Element::Private, &[], &[1], &[2]), None);
    }
}
