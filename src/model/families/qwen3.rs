//! Qwen3, dense.

use crate::model::architecture::{Architecture, Presence, RopePairs};

pub static QWEN3: Architecture = Architecture {
    name: "qwen3",
    rope: RopePairs::Halves,
    query_key_norm: Presence::Always,
    query_key_value_bias: Presence::Never,
    output_bias: Presence::Never,
    frequency_factors: Presence::Never,
};
