//! A device held against the twins: plans run on it one dispatch at a time, and the first dispatch of every kind is also
//! run by its twin, on the same input. So a driver that computes wrongly is found before it answers anyone, and the kernel
//! that it gets wrong has a name.

use super::{Memory, twin};
use crate::plan::{Command, Dispatch, Executor, ExecutorError, Plan, Prepared, Region, Tensor, Ticket};
use half::f16;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A kernel with its specialization: what a driver compiles.
pub type Kind = (&'static str, Vec<u32>);

/// The kinds of dispatch in a plan.
pub fn kinds(plan: &Plan) -> impl Iterator<Item = Kind> {
    plan.dispatches().map(kind)
}

fn kind(dispatch: &Dispatch) -> Kind {
    (dispatch.kernel.name, dispatch.specialization.clone())
}

/// How what a kernel writes is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// 32-bit floats, within a thousandth of the largest that was written: rounding differs, and so does the order of sums.
    Float,
    /// 16-bit floats, within two of their last bits of the largest.
    Half,
    /// Bits, exactly.
    Word,
    /// The kernel's own notes.
    Private,
}

/// Shader and operand, for everything that kernels write.
const WRITTEN: &[(&str, &str, Element)] = &[
    ("attend", "y", Element::Float),
    ("attend", "keys", Element::Half),
    ("attend", "values", Element::Half),
    ("begin", "clock", Element::Word),
    ("begin", "rows", Element::Word),
    ("begin", "outputs", Element::Word),
    ("copy", "y", Element::Word),
    ("embed", "y", Element::Float),
    ("finish", "ring", Element::Word),
    ("mat_mul", "y", Element::Float),
    ("norm", "y", Element::Float),
    ("norm", "scale", Element::Float),
    ("repack", "weight", Element::Word),
    ("rope_store", "q", Element::Float),
    ("rope_store", "keys", Element::Half),
    ("rope_store", "values", Element::Half),
    ("sample", "counts", Element::Word),
    ("sample", "scratch", Element::Private),
    ("sample", "next", Element::Word),
    ("sample", "ring", Element::Word),
];

fn element(family: &str, operand: &str) -> Option<Element> {
    let (_, _, element) = WRITTEN.iter().find(|(shader, name, _)| *shader == family && *name == operand)?;
    Some(*element)
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
        let again = !self.seen.insert(kind(dispatch)) && dispatch.kernel.family != "sample";
        let twin = twin(dispatch.kernel.family).filter(|_| !again);
        let Some(twin) = twin else { return self.device.submit(prepared) };
        for operand in &dispatch.operands {
            let bytes = self.device_bytes(operand)?;
            self.memory.write_bytes(operand.region, operand.offset_bytes, &bytes);
        }
        let written = || dispatch.accesses().zip(dispatch.kernel.operands).filter(|((_, writable), _)| *writable);
        let before: Vec<Vec<u8>> = written().map(|((tensor, _), _)| self.memory.view::<u8>(tensor).to_vec()).collect();
        self.device.submit(prepared)?;
        twin(dispatch, &mut self.memory);
        for (((tensor, _), info), before) in written().zip(&before) {
            let found = self.device_bytes(tensor)?;
            let element = element(dispatch.kernel.family, info.name).unwrap_or(Element::Word);
            let expected = self.memory.view::<u8>(tensor);
            if let Some(difference) = difference(element, before, expected, &found) {
                let what = format!("{difference} in {} of {}", info.name, dispatch.label);
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
                let entry =
                    WRITTEN.iter().position(|(shader, name, _)| *shader == kernel.family && *name == operand.name);
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
    fn words_are_compared_exactly() {
        let compare = |found: &[u8]| difference(Element::Word, &[], &[1, 2, 3, 4, 5, 6, 7, 8], found);
        assert_eq!(compare(&[1, 2, 3, 4, 5, 6, 7, 8]), None);
        let text = compare(&[1, 2, 3, 4, 5, 6, 7, 9]).expect("the last byte differs");
        assert_eq!(text, "word 1 is 0x09070605 instead of 0x08070605");
        assert_eq!(difference(Element::Private, &[], &[1], &[2]), None);
    }
}
