//! Products one behind another in one dispatch, `mat_mul_chain`, on CPU drivers, where a dispatch costs more than many a
//! product: by all of the driver's threads where their workgroups may wait for each other, and small products by one.

use super::policy::Policy;
use super::{mat_mul, mat_mul_chain};
use crate::plan::{Dispatch, Kernel, Region, Tensor, Work, stage_bytes};

/// Bytes of a place where workgroups meet: a cache line (`shaders/lib/meet.glsl`).
pub const LINE_BYTES: u64 = 64;

/// Tokens of a lane's tile. Eight gain nothing: gate, up and down of 64 rows do 260 GFLOP/s in one dispatch and 310 in two
/// (lavapipe, Mesa 26.2.6, 16 lanes, 2 cores, 2026-11-29).
const TOKENS_MAX: u32 = 4;

/// The dispatches, with neighbouring products that one kernel can do made one dispatch each.
pub fn chained(dispatches: Vec<Dispatch>, policy: &Policy) -> Vec<Dispatch> {
    let groups = policy.side_by_side;
    if groups == 0 {
        return dispatches;
    }
    let mut all: Vec<Vec<Dispatch>> = Vec::new();
    for dispatch in dispatches {
        match all.last_mut() {
            Some(run) if goes_with(&run[0], &dispatch) => run.push(dispatch),
            _ => all.push(vec![dispatch]),
        }
    }
    all.into_iter().map(|run| if run.len() > 1 { chain(run, groups) } else { one(run) }).collect()
}

fn one(mut run: Vec<Dispatch>) -> Dispatch {
    run.pop().expect("no run is empty")
}

/// The kernel that does products of this one one behind another.
fn kernel(product: &Kernel) -> Option<&'static Kernel> {
    let suffix = product.name.strip_prefix("mat_mul")?;
    mat_mul_chain::FAMILY.iter().find(|chain| chain.name.strip_prefix("mat_mul_chain") == Some(suffix)).copied()
}

/// What all stages of a chain share, of a product that can be one.
fn shared(dispatch: &Dispatch) -> Option<(&'static Kernel, mat_mul_chain::Spec)> {
    let kernel = kernel(dispatch.kernel)?;
    let mat_mul::Spec { local_size, rows, tokens, norm, ragged, tile_rows, .. } = mat_mul::resolve(dispatch).spec;
    let spec = mat_mul_chain::Spec { local_size, rows, tokens, ragged, tile_rows };
    // A norm that mat_mul does itself would be asked for at every element.
    (norm != 1 && tokens <= TOKENS_MAX).then_some((kernel, spec))
}

fn goes_with(first: &Dispatch, next: &Dispatch) -> bool {
    let (first, next) = (shared(first), shared(next));
    first.is_some_and(|(kernel, spec)| next.is_some_and(|(other, next)| kernel.name == other.name && spec == next))
}

fn chain(stages: Vec<Dispatch>, groups: u32) -> Dispatch {
    let (kernel, spec) = shared(&stages[0]).expect("only such are put together");
    let count = stages.len() as u64;
    // The plan's builder places them.
    let records = Tensor::new(Region::Stages, 0, count * stage_bytes(stages[0].kernel));
    let mut arrived = Tensor::new(Region::Stages, 0, count * LINE_BYTES);
    let args = mat_mul_chain::Args { stages: &records, arrived: &mut arrived, stage_count: count as u32 };
    let work = stages.iter().fold(Work::default(), |sum, stage| Work {
        bytes: sum.bytes + stage.work.bytes,
        flops: sum.flops + stage.work.flops,
        ..sum
    });
    // As `layer 3 output, gate up, down, qkv`.
    let label = stages[1..].iter().fold(stages[0].label.clone(), |label, stage| label + ", " + stage.part());
    Dispatch { work, label, stages, ..mat_mul_chain::dispatch(kernel, spec, args, [groups, 1, 1]) }
}
