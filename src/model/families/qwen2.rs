//! Qwen2 and Qwen2.5.

use crate::model::architecture::{Architecture, Presence, RopePairs};

pub static QWEN2: Architecture = Architecture {
    name: "qwen2",
    rope: RopePairs::Halves,
    query_key_norm: Presence::Never,
    query_key_value_bias: Presence::Always,
    output_bias: Presence::Never,
    frequency_factors: Presence::Never,
};
