//! The case table: what the tests compare with twins, and what `benches/kernels.rs` times.

use crate::harness::Case;
use crate::{attention, chain, copy, matrix, norm, roofline, sampling};

/// Small and ragged shapes of every kernel.
pub fn cases() -> Vec<Case> {
    let families = [
        attention::cases(),
        chain::cases(),
        copy::cases(),
        matrix::cases(),
        norm::cases(),
        roofline::cases(),
        sampling::cases(),
    ];
    families.into_iter().flatten().collect()
}
