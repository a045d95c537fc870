//! The paged cache of a layer, as `shaders/lib/cache.glsl` lays it out.

use super::Memory;
use crate::kernels::attention::{CacheLayout, KvType};
use crate::kernels::{BLOCK_TOKENS, Row};
use crate::plan::Tensor;
use half::f16;

const TOKENS: usize = BLOCK_TOKENS as usize;
/// `shaders/lib/cache.glsl` says so.
const KEY_TOKENS: usize = 16;
const GROUP: usize = KvType::GROUP as usize;

/// Keys and values of a layer, and where their blocks are.
pub(super) struct Cache<'a> {
    pub layout: CacheLayout,
    pub head_dim: usize,
    /// Of the whole layer.
    pub cache_blocks: usize,
    pub blocks: &'a Tensor,
    pub max_blocks: usize,
    pub keys: &'a Tensor,
    pub values: &'a Tensor,
}

/// How the dimensions of one token follow each other in a block of a kv head.
#[derive(Clone, Copy)]
enum Order {
    /// Token by token within an eight of dimensions; woven, within one, or four of them that are bytes, and of
    /// [`KEY_TOKENS`] tokens. Likewise the scales, within a group and of all tokens.
    Key,
    /// Those of a token side by side.
    Value,
}

impl Order {
    /// The index of dimension `dim` of `token`, within the block.
    fn element(self, layout: CacheLayout, head_dim: usize, token: usize, dim: usize) -> usize {
        let (tokens, dims) = match (self, layout) {
            (Order::Value, _) => return token * head_dim + dim,
            (_, CacheLayout { woven: false, .. }) => (TOKENS, 8),
            (_, CacheLayout { kv_type: KvType::F16, .. }) => (KEY_TOKENS, 1),
            (_, CacheLayout { kv_type: KvType::Q8_0, .. }) => (KEY_TOKENS, 4),
        };
        let before = token / tokens * head_dim + dim / dims * dims;
        before * tokens + token % tokens * dims + dim % dims
    }

    /// The index of the scale of `group`.
    fn scale(self, head_dim: usize, token: usize, group: usize) -> usize {
        match self {
            Order::Key => group * TOKENS + token,
            Order::Value => token * (head_dim / GROUP) + group,
        }
    }
}

impl Cache<'_> {
    /// Stores the key and value of a row's own position.
    pub fn store(&self, memory: &mut Memory, row: &Row, kv_head: usize, key: &[f32], value: &[f32]) {
        let (block, token) = self.place(memory, row.sequence as usize, row.position as usize, kv_head);
        for (tensor, order, x) in [(self.keys, Order::Key, key), (self.values, Order::Value, value)] {
            match self.layout.kv_type {
                KvType::F16 => {
                    let halves = memory.view_mut::<f16>(tensor);
                    for (dim, &x) in x.iter().enumerate() {
                        let at = order.element(self.layout, self.head_dim, token, dim);
                        halves[block * self.head_dim * TOKENS + at] = f16::from_f32(x);
                    }
                }
                KvType::Q8_0 => {
                    let block_bytes = self.quantized_bytes();
                    let bytes = &mut memory.view_mut::<u8>(tensor)[block * block_bytes..][..block_bytes];
                    for (group, x) in x.chunks(GROUP).enumerate() {
                        self.store_group(bytes, order, token, group, x);
                    }
                }
            }
        }
    }

    fn store_group(&self, block: &mut [u8], order: Order, token: usize, group: usize, x: &[f32]) {
        let (scale, quants) = quantize_q8_0(x);
        for (index, quant) in quants.into_iter().enumerate() {
            block[order.element(self.layout, self.head_dim, token, group * GROUP + index)] = quant as u8;
        }
        let at = self.head_dim * TOKENS + 2 * order.scale(self.head_dim, token, group);
        block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
    }

    /// One token's key and value.
    pub fn load(&self, memory: &Memory, sequence: usize, token: usize, kv_head: usize) -> [Vec<f64>; 2] {
        let (block, token) = self.place(memory, sequence, token, kv_head);
        let load = |tensor: &Tensor, order: Order, dim: usize| -> f64 {
            let at = order.element(self.layout, self.head_dim, token, dim);
            if self.layout.kv_type == KvType::F16 {
                return f64::from(memory.view::<f16>(tensor)[block * self.head_dim * TOKENS + at]);
            }
            let bytes = &memory.view::<u8>(tensor)[block * self.quantized_bytes()..];
            let scale = self.head_dim * TOKENS + 2 * order.scale(self.head_dim, token, dim / GROUP);
            let scale = f16::from_le_bytes([bytes[scale], bytes[scale + 1]]);
            f64::from(scale) * f64::from(bytes[at] as i8)
        };
        [(self.keys, Order::Key), (self.values, Order::Value)]
            .map(|(tensor, order)| (0..self.head_dim).map(|dim| load(tensor, order, dim)).collect())
    }

    /// The block of a kv head that holds a token, counted through the whole cache, and the token's index within it.
    fn place(&self, memory: &Memory, sequence: usize, token: usize, kv_head: usize) -> (usize, usize) {
        let block = memory.view::<u32>(self.blocks)[sequence * self.max_blocks + token / TOKENS] as usize;
        (kv_head * self.cache_blocks + block, token % TOKENS)
    }

    /// Bytes of a block of a kv head: the quants, then the scales.
    fn quantized_bytes(&self) -> usize {
        TOKENS * KvType::Q8_0.head_bytes(self.head_dim as u32) as usize
    }
}

/// The scale and the quants of 32 values, as llama.cpp's `quantize_row_q8_0_ref` makes them.
fn quantize_q8_0(x: &[f32]) -> (f16, Vec<i8>) {
    let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    (f16::from_f32(scale), x.iter().map(|x| (x * inverse).round() as i8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quantized_as_llama_cpp_does_it() {
        let fixture = |name: &str| {
            let path = format!("{}/tests/fixtures/blocks/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        // What llama.cpp's quantizer was given, and what it made of it.
        let values: Vec<f32> = bytemuck::allocation::pod_collect_to_vec(&fixture("f16.values"));
        let blocks = fixture("q8_0.blocks");
        assert_eq!(blocks.len(), values.len() / 32 * 34);
        assert!(values.len() >= 2048);
        for (index, (x, block)) in values.chunks(32).zip(blocks.chunks(34)).enumerate() {
            let (scale, quants) = quantize_q8_0(x);
            assert_eq!(scale.to_le_bytes(), block[..2], "the scale of block {index}");
            let expected: Vec<i8> = block[2..].iter().map(|&byte| byte as i8).collect();
            assert_eq!(quants, expected, "block {index}");
        }
    }
}
