//! Llama 2, 3, 3.1, 3.2, Mistral, SmolLM and others that GGUF stores as `llama`.

use crate::model::architecture::{Architecture, Presence, RopePairs};

pub static LLAMA: Architecture = Architecture {
    name: "llama",
    rope: RopePairs::Adjacent,
    query_key_norm: Presence::Never,
    query_key_value_bias: Presence::Optional,
    output_bias: Presence::Optional,
    frequency_factors: Presence::Optional,
};
