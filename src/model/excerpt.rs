//! A small model cut out of a large one: of every size that no kernel is specialized for a piece, and one layer or two of each
//! kind. It computes nothing of use, but with the very kernels of the whole model, so it can show whether they work.

use super::ModelError;
use super::dims::Dims;
use crate::gguf::{BlockFormat, Gguf, TensorInfo, Writer};

/// Sizes above twice this are cut to it. A multiple of every format's block.
const PIECE: u32 = 256;

/// The piece of a size: what is left over when it is divided by any power of two up to [`PIECE`] stays the same.
fn piece(size: u32) -> u32 {
    if size <= 2 * PIECE { size } else { PIECE + size % PIECE }
}

/// The excerpt of a model whose dimensions can be read, with so many layers of a kind if there are.
pub fn excerpt(gguf: &Gguf, alike: usize) -> Result<Gguf, ModelError> {
    let (architecture, dims) = Dims::read(gguf)?;
    let layers = layers(gguf, &dims, alike);
    let key = |name: &str| format!("{}.{name}", architecture.name);
    let (width, feed_forward) = (piece(dims.width), piece(dims.feed_forward));
    let sizes = [
        (key("block_count"), layers.len() as u32),
        (key("embedding_length"), width),
        (key("feed_forward_length"), feed_forward),
        // Left out of a file, these follow from the width.
        (key("attention.key_length"), dims.head_dim),
        (key("attention.value_length"), dims.head_dim),
    ];
    let mut writer = Writer::new();
    for (key, kind, value) in gguf.metadata() {
        let of_model = key == "general.architecture" || key.starts_with(&format!("{}.", architecture.name));
        if of_model && sizes.iter().all(|(other, _)| other != key) {
            writer.value(key, kind, value);
        }
    }
    for (key, size) in &sizes {
        writer.u32(key, *size);
    }
    let pieces = Pieces { width, feed_forward, vocabulary: piece(dims.vocabulary) };
    for info in gguf.tensors().iter().filter(|info| layer_of(&info.name).is_none()) {
        pieces.add(gguf, info, &info.name, &mut writer);
    }
    for (layer, first) in layers.iter().enumerate() {
        let prefix = format!("blk.{first}.");
        for info in gguf.tensors() {
            if let Some(rest) = info.name.strip_prefix(&prefix) {
                pieces.add(gguf, info, &format!("blk.{layer}.{rest}"), &mut writer);
            }
        }
    }
    Ok(Gguf::parse(&format!("{} (an excerpt)", gguf.file()), writer.finish())?)
}

/// 3 and `attn_q.weight` of `blk.3.attn_q.weight`.
fn layer_of(name: &str) -> Option<(u32, &str)> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// The first `alike` layers of each kind, which is the formats of its tensors.
fn layers(gguf: &Gguf, dims: &Dims, alike: usize) -> Vec<u32> {
    let mut kinds: Vec<Vec<(&str, BlockFormat)>> = vec![Vec::new(); dims.layers as usize];
    for info in gguf.tensors() {
        if let Some((number, rest)) = layer_of(&info.name)
            && let Some(kind) = kinds.get_mut(number as usize)
        {
            kind.push((rest, info.kind));
        }
    }
    kinds.iter_mut().for_each(|kind| kind.sort_unstable_by_key(|(name, _)| *name));
    let before = |layer: usize| kinds[..layer].iter().filter(|kind| **kind == kinds[layer]).count();
    (0..dims.layers).filter(|layer| before(*layer as usize) < alike).collect()
}

/// What becomes of a tensor's rows and columns.
struct Pieces {
    width: u32,
    feed_forward: u32,
    vocabulary: u32,
}

impl Pieces {
    /// The rows and columns to keep of a tensor; `None`: all.
    fn of(&self, name: &str) -> (Option<u32>, Option<u32>) {
        let (width, feed_forward) = (Some(self.width), Some(self.feed_forward));
        match name {
            "token_embd.weight" | "output.weight" => (Some(self.vocabulary), width),
            "attn_q.weight" | "attn_k.weight" | "attn_v.weight" => (None, width),
            "attn_output.weight" => (width, None),
            "ffn_gate.weight" | "ffn_up.weight" => (feed_forward, width),
            "ffn_down.weight" => (width, feed_forward),
            "output_norm.weight" | "attn_norm.weight" | "ffn_norm.weight" | "attn_output.bias" => (None, width),
            _ => (None, None),
        }
    }

    fn add(&self, gguf: &Gguf, info: &TensorInfo, name: &str, writer: &mut Writer) {
        let kept = layer_of(name).map_or(name, |(_, rest)| rest);
        let (rows, cols) = self.of(kept);
        let rows = rows.map_or(info.rows, |rows| rows as usize).min(info.rows);
        let cols = cols.map_or(info.cols, |cols| cols as usize).min(info.cols);
        // A piece leaves whole blocks whole; a file for which that fails is refused when its tensors are placed.
        let Some(kept_bytes) = info.kind.row_bytes(cols) else { return };
        let row_bytes = info.bytes / info.rows;
        let bytes: Vec<u8> =
            gguf.bytes(info).chunks(row_bytes).take(rows).flat_map(|row| &row[..kept_bytes]).copied().collect();
        let dims = if info.dims.len() == 1 { vec![cols] } else { vec![cols, rows] };
        writer.tensor(name, info.kind, &dims, &bytes);
    }
}
