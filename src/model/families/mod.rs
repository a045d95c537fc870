//! One short file for each family.

mod llama;
mod qwen2;
mod qwen3;

use super::architecture::Architecture;

pub static ALL: &[&Architecture] = &[&llama::LLAMA, &qwen2::QWEN2, &qwen3::QWEN3];
