//! Offsets for scratch tensors: two whose lifetimes do not meet may share bytes.

use super::{Dispatch, Region, Tensor};

/// Alignment of every tensor in the arena: enough for any load and for a cache line of every GPU we know of.
const ALIGN_BYTES: u64 = 256;

/// First and last dispatch, or stage of one, that use a virtual tensor.
#[derive(Clone, Copy)]
struct Lifetime {
    first: usize,
    last: usize,
}

/// Replaces every [`Region::Virtual`] by a place in [`Region::Arena`], first fit in order of first use. Returns the bytes
/// of arena used.
pub fn assign(dispatches: &mut [Dispatch], virtual_bytes: &[u64]) -> u64 {
    let lifetimes = lifetimes(dispatches, virtual_bytes.len());
    let mut order: Vec<usize> = (0..virtual_bytes.len()).filter(|&id| lifetimes[id].is_some()).collect();
    order.sort_by_key(|&id| (lifetimes[id].map(|lifetime| lifetime.first), id));

    let mut placed: Vec<(u64, u64, Lifetime)> = Vec::new();
    let mut offsets = vec![0; virtual_bytes.len()];
    let mut arena_bytes = 0;
    for id in order {
        let Some(lifetime) = lifetimes[id] else { continue };
        let bytes = virtual_bytes[id].next_multiple_of(ALIGN_BYTES);
        let mut alive: Vec<(u64, u64)> = placed
            .iter()
            .filter(|(_, _, other)| lifetime.first <= other.last && other.first <= lifetime.last)
            .map(|&(offset, bytes, _)| (offset, bytes))
            .collect();
        alive.sort_unstable();
        let mut offset = 0;
        for (other_offset, other_bytes) in alive {
            if offset + bytes <= other_offset {
                break;
            }
            offset = offset.max(other_offset + other_bytes);
        }
        placed.push((offset, bytes, lifetime));
        offsets[id] = offset;
        arena_bytes = arena_bytes.max(offset + bytes);
    }

    let parts = dispatches.iter_mut().flat_map(Dispatch::parts_mut);
    for tensor in parts.flat_map(|part| &mut part.operands) {
        if let Region::Virtual(id) = tensor.region {
            *tensor = Tensor::new(Region::Arena, offsets[id as usize] + tensor.offset_bytes, tensor.bytes);
        }
    }
    arena_bytes
}

/// Places the tensors of [`Region::Stages`] behind each other.
pub fn assign_stages(dispatches: &mut [Dispatch]) {
    let mut bytes = 0;
    for tensor in dispatches.iter_mut().filter(|d| !d.stages.is_empty()).flat_map(|d| &mut d.operands) {
        tensor.offset_bytes = bytes;
        bytes = tensor.end_bytes().next_multiple_of(ALIGN_BYTES);
    }
}

fn lifetimes(dispatches: &[Dispatch], virtuals: usize) -> Vec<Option<Lifetime>> {
    let mut lifetimes: Vec<Option<Lifetime>> = vec![None; virtuals];
    for (index, part) in dispatches.iter().flat_map(Dispatch::parts).enumerate() {
        for tensor in &part.operands {
            if let Region::Virtual(id) = tensor.region {
                let lifetime = lifetimes[id as usize].get_or_insert(Lifetime { first: index, last: index });
                lifetime.last = index;
            }
        }
    }
    lifetimes
}
