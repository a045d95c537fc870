//! Kernels as Rust sees them: what the build reflected from each shader, and the one function per family that chooses
//! variant, geometry and specialization. It knows tensors, not models.

pub mod attention;
mod cache;
pub mod chains;
pub mod layout;
pub mod matrix;
pub mod policy;
pub mod sampling;
pub mod tuning;

mod generated {
    use crate::plan::{ConstantInfo, Dispatch, Kernel, OperandInfo, Scalar, SpecInfo, Tensor, Work};

    fn put(push: &mut [u8], offset: usize, word: u32) {
        push[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
    }

    fn get(push: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes([push[offset], push[offset + 1], push[offset + 2], push[offset + 3]])
    }

    fn make(
        kernel: &'static Kernel,
        specialization: Vec<u32>,
        operands: Vec<Tensor>,
        push: Vec<u8>,
        groups: [u32; 3],
    ) -> Dispatch {
        let work = Work { bytes: operands.iter().map(|tensor| tensor.bytes).sum(), ..Work::default() };
        Dispatch { kernel, label: String::new(), specialization, operands, push, groups, work, stages: Vec::new() }
    }

    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

pub use generated::*;
