//! Hesper: an inference server for quantized language models whose kernels are Vulkan compute shaders.

pub mod api;
pub mod engine;
pub mod gguf;
pub mod gpu;
pub mod kernels;
pub mod load;
pub mod model;
pub mod plan;
pub mod pull;
pub mod reference;
pub mod store;
pub mod text;
