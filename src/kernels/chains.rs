//! What layers do, one stage behind another in one dispatch, `chain`, on CPU drivers, where a dispatch costs more than many a
//! product: by all of the driver's threads where their workgroups may wait for each other, and small products by one.

use super::policy::Policy;
use super::{LINE_WORDS, attend, chain as kernel, mat_mul};
use crate::plan::{Dispatch, Kernel, Region, STAGE_BYTES, Tensor, Work};

/// Bytes of a place where workgroups meet.
pub const LINE_BYTES: u64 = 4 * LINE_WORDS as u64;

/// Tokens of a lane's tile. Eight gain nothing: gate, up and down of 64 rows do 260 GFLOP/s in one dispatch and 310 in two
/// (lavapipe, Mesa 26.2.6, 16 lanes, 2 cores, 2026-11-29).
const TOKENS_MAX: u32 = 4;

/// Stages that a label still names one by one.
const NAMED_STAGES: usize = 5;

/// The format that a chain may have beside its own.
const SECOND_FORMAT: &str = "q6_k_woven";

/// The dispatches, with neighbours that one kernel can do made one dispatch each.
pub fn chained(dispatches: Vec<Dispatch>, policy: &Policy) -> Vec<Dispatch> {
    let groups = policy.side_by_side;
    if groups == 0 {
        return dispatches;
    }
    let mut all: Vec<(Needs, Vec<Dispatch>)> = Vec::new();
    for dispatch in dispatches {
        let own = Needs::of(&dispatch, groups);
        match all.last_mut() {
            Some((needs, run)) if needs.both(&own).is_some_and(|both| both.kernel().is_some()) => {
                *needs = needs.both(&own).expect("it was just seen");
                run.push(dispatch);
            }
            _ => all.push((own, vec![dispatch])),
        }
    }
    let dispatch = |(needs, run): (Needs, Vec<Dispatch>)| match needs.kernel() {
        Some(kernel) if run.len() > 1 => vec![chain(kernel, &needs, run, groups)],
        _ => run,
    };
    all.into_iter().flat_map(dispatch).collect()
}

/// What the kernel of a chain must be able to do.
#[derive(Clone, Debug, Default)]
struct Needs {
    /// It is no stage of any chain.
    impossible: bool,
    /// Formats of its products, as `q4_0_woven`.
    formats: Vec<&'static str>,
    /// Of products: lanes, rows and tokens of a tile, whether rows are ragged, rows of a tile.
    product: Option<(u32, u32, u32, bool, u32)>,
    attention: Option<attend::Spec>,
}

impl Needs {
    fn of(dispatch: &Dispatch, groups: u32) -> Needs {
        let none = Needs { impossible: true, ..Needs::default() };
        match dispatch.kernel.family {
            "mat_mul" => {
                let mat_mul::Spec { local_size, rows, tokens, norm, ragged, tile_rows, .. } =
                    mat_mul::resolve(dispatch).spec;
                let Some(format) = dispatch.kernel.name.strip_prefix("mat_mul_") else { return none };
                // A norm that mat_mul does itself would be asked for at every element.
                let possible = norm != 1 && tokens <= TOKENS_MAX && variant(format).is_some();
                let product = Some((local_size, rows, tokens, ragged, tile_rows));
                Needs { impossible: !possible, formats: vec![format], product, attention: None }
            }
            // One workgroup would attend to all heads alone, and no two may attend to the same: what it stores goes where it
            // finds queries. Several rows would have a kernel of their own, and LLVM takes seconds for each.
            "attend" if groups > 1 && std::ptr::eq(dispatch.kernel, &attend::ATTEND_WOVEN) => {
                let attend::Resolved { spec, count, .. } = attend::resolve(dispatch);
                let possible = spec.fused && count == 1 && dispatch.groups[1] >= groups;
                Needs { impossible: !possible, attention: Some(spec), ..Needs::default() }
            }
            _ => none,
        }
    }

    /// What a chain of both needs, if there can be one.
    fn both(&self, other: &Needs) -> Option<Needs> {
        fn agreed<T: Copy + PartialEq>(a: Option<T>, b: Option<T>) -> Option<Option<T>> {
            (a.is_none() || b.is_none() || a == b).then_some(a.or(b))
        }
        let mut formats = self.formats.clone();
        formats.extend(other.formats.iter().filter(|format| !self.formats.contains(format)));
        let possible = !self.impossible && !other.impossible;
        possible.then_some(Needs {
            impossible: false,
            formats,
            product: agreed(self.product, other.product)?,
            attention: agreed(self.attention, other.attention)?,
        })
    }

    /// The kernel that can do it.
    fn kernel(&self) -> Option<&'static Kernel> {
        match *self.formats.as_slice() {
            [format] => variant(format),
            [format, SECOND_FORMAT] | [SECOND_FORMAT, format] => {
                variant(format).filter(|chain| chain.defines.contains(&"HAS_Q6_K_TOO"))
            }
            _ => None,
        }
    }
}

/// The chain of products of a format.
fn variant(format: &str) -> Option<&'static Kernel> {
    kernel::FAMILY.iter().find(|chain| chain.name.strip_prefix("chain_") == Some(format)).copied()
}

/// What a stage is to the kernel of a chain (`shaders/chain.comp`).
pub fn stage_kind(chain: &Kernel, stage: &Kernel) -> u32 {
    match stage.name.strip_prefix("mat_mul_") {
        None => 2,
        own if own == chain.name.strip_prefix("chain_") => 0,
        Some(_) => 1,
    }
}

fn chain(kernel: &'static Kernel, needs: &Needs, stages: Vec<Dispatch>, groups: u32) -> Dispatch {
    let (local_size, rows, tokens, ragged, tile_rows) = needs.product.expect("attention stands beside products");
    let count = stages.len() as u64;
    // Without attention the driver leaves out what it would be specialized for.
    let (head_dim, heads, kv_heads, rotary, neox, qk_norm, part) = match needs.attention {
        Some(spec) => (spec.head_dim, spec.heads, spec.kv_heads, spec.rotary, spec.neox, spec.qk_norm, spec.part),
        None => (8, 1, 1, 0, false, false, 1),
    };
    let (mixed, attends) = (needs.formats.len() > 1, needs.attention.is_some());
    let spec = kernel::Spec {
        local_size,
        rows,
        tokens,
        ragged,
        tile_rows,
        mixed,
        attends,
        head_dim,
        heads,
        kv_heads,
        rotary,
        neox,
        qk_norm,
        part,
    };
    // The plan's builder places them.
    let records = Tensor::new(Region::Stages, 0, count * STAGE_BYTES);
    let mut arrived = Tensor::new(Region::Stages, 0, count * LINE_BYTES);
    let args = kernel::Args { stages: &records, arrived: &mut arrived, stage_count: count as u32 };
    let work = stages.iter().fold(Work::default(), |sum, stage| sum + stage.work);
    let label = label(&stages);
    Dispatch { work, label, stages, ..kernel::dispatch(kernel, spec, args, [groups, 1, 1]) }
}

/// As `layer 3 output, gate up, down, qkv`, or `layer 0 qkv to head`.
fn label(stages: &[Dispatch]) -> String {
    let (first, last) = (&stages[0], &stages[stages.len() - 1]);
    if stages.len() > NAMED_STAGES {
        return format!("{} to {}", first.label, last.label);
    }
    stages[1..].iter().fold(first.label.clone(), |label, stage| label + ", " + stage.part())
}
