//! A model's dimensions, read from a file's metadata and checked for sense before anything is sized by them.

use super::ModelError;
use super::architecture::{self, Architecture, RopePairs};
use super::families;
use crate::gguf::Gguf;
use crate::kernels::attention::{self, KvType};

#[derive(Clone, Debug, PartialEq)]
pub struct Dims {
    pub layers: u32,
    /// Elements of the residual stream.
    pub width: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Elements of a head that the rotary embedding turns.
    pub rotary: u32,
    pub feed_forward: u32,
    pub vocabulary: u32,
    /// The longest sequence that the model was made for.
    pub context_tokens: u32,
    pub norm_eps: f32,
    pub rope_base: f32,
    /// Positions are divided by this (linear scaling); 1 is none.
    pub rope_factor: f32,
}

/// Keys of a family's own that change nothing here, or are read elsewhere.
const HARMLESS: &[&str] = &["vocab_size", "rope.scaling.original_context_length", "rope.scaling.finetuned"];

/// Keys with the only value that means "not used".
const ZERO_ONLY: &[&str] = &["attention.sliding_window", "expert_count", "expert_used_count", "pooling_type"];

const KNOWN: &[&str] = &[
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "context_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
];

impl Dims {
    /// The file's architecture and dimensions.
    pub fn read(gguf: &Gguf) -> Result<(&'static Architecture, Dims), ModelError> {
        let name = gguf.str("general.architecture")?;
        let architecture = architecture::find(name).ok_or_else(|| ModelError::Architecture {
            file: gguf.file().to_owned(),
            found: name.to_owned(),
            supported: families::ALL.iter().map(|family| family.name).collect::<Vec<_>>().join(", "),
        })?;
        let keys = Keys { gguf, prefix: name };
        keys.refuse_unknown()?;
        let dims = keys.dims()?;
        keys.check(&dims)?;
        Ok((architecture, dims))
    }
}

impl Dims {
    /// Elements of the largest matrix that a layer multiplies by, where matrices are stacked.
    pub fn largest_product(&self) -> u64 {
        let [heads, kv_heads, head_dim] = [self.heads, self.kv_heads, self.head_dim].map(u64::from);
        let rows = ((heads + 2 * kv_heads) * head_dim).max(2 * u64::from(self.feed_forward));
        rows.saturating_mul(self.width.into())
    }

    /// What the attention kernels need to know; `normed`: queries and keys are normalized first.
    pub fn attention(&self, architecture: &Architecture, normed: bool, kv_type: KvType) -> attention::Shape {
        attention::Shape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            rotary: self.rotary,
            neox: architecture.rope == RopePairs::Halves,
            qk_norm_eps: normed.then_some(self.norm_eps),
            kv_type,
        }
    }
}

struct Keys<'a> {
    gguf: &'a Gguf,
    prefix: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn u32(&self, name: &str) -> Result<u32, ModelError> {
        Ok(self.gguf.u32(&self.key(name))?)
    }

    fn u32_or(&self, name: &str, default: u32) -> Result<u32, ModelError> {
        Ok(self.gguf.opt_u32(&self.key(name))?.unwrap_or(default))
    }

    fn unusable(&self, problem: String) -> ModelError {
        ModelError::Unusable { file: self.gguf.file().to_owned(), problem }
    }

    /// A key that is not understood may change what the model computes.
    fn refuse_unknown(&self) -> Result<(), ModelError> {
        let prefix = self.key("");
        for (key, _, value) in self.gguf.metadata() {
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            let neutral = ZERO_ONLY.contains(&name) && value.as_u64() == Some(0);
            if !neutral && !KNOWN.contains(&name) && !HARMLESS.contains(&name) {
                return Err(self.unusable(format!(
                    "key {key:?} is not known for this architecture; the model may need something that is not built"
                )));
            }
        }
        Ok(())
    }

    fn dims(&self) -> Result<Dims, ModelError> {
        let width = self.u32("embedding_length")?;
        let heads = self.u32("attention.head_count")?;
        if heads == 0 {
            return Err(self.unusable(format!("{} is 0", self.key("attention.head_count"))));
        }
        let head_dim = self.u32_or("attention.key_length", width / heads)?;
        let embeddings = self.gguf.tensor("token_embd.weight")?;
        let vocabulary = u32::try_from(embeddings.rows).unwrap_or(u32::MAX);
        let factor = self.gguf.opt_f32(&self.key("rope.scaling.factor"))?;
        let rope_factor = match self.gguf.opt_str(&self.key("rope.scaling.type"))? {
            None | Some("none") => 1.0,
            Some("linear") => factor.unwrap_or(1.0),
            Some(other) => {
                return Err(self.unusable(format!("rope scaling {other:?} is not supported; none and linear are")));
            }
        };
        Ok(Dims {
            layers: self.u32("block_count")?,
            width,
            heads,
            kv_heads: self.u32_or("attention.head_count_kv", heads)?,
            head_dim,
            rotary: self.u32_or("rope.dimension_count", head_dim)?,
            feed_forward: self.u32("feed_forward_length")?,
            vocabulary,
            context_tokens: self.u32("context_length")?,
            norm_eps: self.gguf.f32(&self.key("attention.layer_norm_rms_epsilon"))?,
            rope_base: self.gguf.opt_f32(&self.key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_factor,
        })
    }

    /// Bounds that keep every later product of dimensions inside 32 bits or the kernels' limits.
    fn check(&self, dims: &Dims) -> Result<(), ModelError> {
        let value_length = self.u32_or("attention.value_length", dims.head_dim)?;
        let checks = [
            ((1..=1024).contains(&dims.layers), "block_count must be 1 to 1024".to_owned()),
            (
                (4..=65_536).contains(&dims.width) && dims.width.is_multiple_of(4),
                "embedding_length must be a multiple of 4, up to 65536".to_owned(),
            ),
            ((1..=1024).contains(&dims.heads), "attention.head_count must be 1 to 1024".to_owned()),
            (
                dims.kv_heads > 0 && dims.heads.is_multiple_of(dims.kv_heads),
                "attention.head_count must be a multiple of attention.head_count_kv".to_owned(),
            ),
            (
                (8..=256).contains(&dims.head_dim) && dims.head_dim.is_multiple_of(8),
                format!("a head's size must be a multiple of 8, up to 256, and is {}", dims.head_dim),
            ),
            (value_length == dims.head_dim, "attention.value_length must equal attention.key_length".to_owned()),
            (
                dims.rotary >= 2 && dims.rotary <= dims.head_dim && dims.rotary.is_multiple_of(2),
                "rope.dimension_count must be even and at most a head's size".to_owned(),
            ),
            (
                (4..=1 << 20).contains(&dims.feed_forward) && dims.feed_forward.is_multiple_of(4),
                "feed_forward_length must be a multiple of 4, up to 1048576".to_owned(),
            ),
            (dims.vocabulary < 1 << 20, "the vocabulary must be smaller than 1048576".to_owned()),
            ((1..=1 << 24).contains(&dims.context_tokens), "context_length must be 1 to 16777216".to_owned()),
            (
                dims.norm_eps.is_finite() && dims.norm_eps >= 0.0,
                "attention.layer_norm_rms_epsilon must be a small positive number".to_owned(),
            ),
            (
                dims.rope_base.is_finite()
                    && dims.rope_base > 0.0
                    && dims.rope_factor.is_finite()
                    && dims.rope_factor > 0.0,
                "rope.freq_base and rope.scaling.factor must be positive".to_owned(),
            ),
        ];
        match checks.into_iter().find(|(holds, _)| !holds) {
            Some((_, problem)) => Err(self.unusable(format!("{} ({})", problem, self.prefix))),
            None => Ok(()),
        }
    }
}
