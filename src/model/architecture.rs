//! The vocabulary in which an architecture is described. A family is a constant of these; nothing else in the project asks
//! which model it runs.

use super::families;

/// What a decoder-only transformer of this project may be. Shapes are not here: they come from the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// GGUF's `general.architecture`, also the prefix of the file's keys.
    pub name: &'static str,
    /// Which two elements of a head a rotary embedding turns together.
    pub rope: RopePairs,
    /// Root-mean-square norms of each head's query and key before the rotary embedding.
    pub query_key_norm: Presence,
    /// Biases of the query, key and value projections.
    pub query_key_value_bias: Presence,
    /// Bias of the attention's output projection.
    pub output_bias: Presence,
    /// A tensor `rope_freqs.weight` that divides the rotary frequencies (Llama 3.1 and later).
    pub frequency_factors: Presence,
}

/// Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021; the pairing is a matter of how the
/// weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// Elements 2i and 2i + 1.
    Adjacent,
    /// Elements i and i + rotary / 2.
    Halves,
}

/// Whether a tensor belongs to a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Never,
    Always,
    /// Used where the file has it.
    Optional,
}

/// The family that a file's `general.architecture` names.
pub fn find(name: &str) -> Option<&'static Architecture> {
    families::ALL.iter().copied().find(|architecture| architecture.name == name)
}
