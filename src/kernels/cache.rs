//! How the cache holds keys and values, and the kernels for each way. `shaders/lib/cache.glsl` says how it is laid out.

use super::{attend, rope_store};
use crate::plan::Kernel;
use std::fmt;

/// How the cache holds keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum KvType {
    /// 16-bit floats.
    #[default]
    F16,
    /// llama.cpp's format of that name: groups of [`KvType::GROUP`] bytes that share a 16-bit scale.
    Q8_0,
}

impl KvType {
    /// Dimensions of a head that share a scale, in [`KvType::Q8_0`].
    pub const GROUP: u32 = 32;

    /// As llama.cpp writes it.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        }
    }

    /// Bytes of a token's key in one head of `head_dim` dimensions, and likewise of its value. In a block of a head they
    /// stand together by kind: in Q8_0 a byte for each dimension of each token, then the scales.
    pub fn head_bytes(self, head_dim: u32) -> u64 {
        let head_dim = u64::from(head_dim);
        match self {
            KvType::F16 => 2 * head_dim,
            KvType::Q8_0 => head_dim + head_dim / u64::from(KvType::GROUP) * 2,
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a cache's bytes are ordered; `shaders/lib/cache.glsl` has both orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    pub kv_type: KvType,
    /// For CPU drivers.
    pub woven: bool,
}

/// The kernels that work on a cache of one layout.
pub(super) struct Kernels {
    layout: CacheLayout,
    pub store: &'static Kernel,
    pub attend: &'static Kernel,
    /// For one split of a row.
    pub split: Option<&'static Kernel>,
}

const KERNELS: [Kernels; 4] = [
    Kernels {
        layout: CacheLayout { kv_type: KvType::F16, woven: false },
        store: &rope_store::ROPE_STORE,
        attend: &attend::ATTEND,
        split: Some(&attend::ATTEND_SPLIT),
    },
    Kernels {
        layout: CacheLayout { kv_type: KvType::F16, woven: true },
        store: &rope_store::ROPE_STORE_WOVEN,
        attend: &attend::ATTEND_WOVEN,
        split: None,
    },
    Kernels {
        layout: CacheLayout { kv_type: KvType::Q8_0, woven: false },
        store: &rope_store::ROPE_STORE_Q8_0,
        attend: &attend::ATTEND_Q8_0,
        split: Some(&attend::ATTEND_SPLIT_Q8_0),
    },
    Kernels {
        layout: CacheLayout { kv_type: KvType::Q8_0, woven: true },
        store: &rope_store::ROPE_STORE_Q8_0_WOVEN,
        attend: &attend::ATTEND_Q8_0_WOVEN,
        split: None,
    },
];

impl CacheLayout {
    pub(super) fn kernels(self) -> &'static Kernels {
        KERNELS.iter().find(|kernels| kernels.layout == self).expect("every layout is listed")
    }

    /// That of the cache which a variant of `rope_store` or `attend` works on.
    pub fn of(kernel: &Kernel) -> CacheLayout {
        let works = |kernels: &&Kernels| {
            let all = [Some(kernels.store), Some(kernels.attend), kernels.split];
            all.into_iter().flatten().any(|other| other.name == kernel.name)
        };
        KERNELS.iter().find(works).map(|kernels| kernels.layout).expect("a kernel of a cache")
    }

    /// Whether a variant of `attend` takes one split of a row and leaves shares.
    pub fn leaves_shares(kernel: &Kernel) -> bool {
        KERNELS.iter().filter_map(|kernels| kernels.split).any(|split| split.name == kernel.name)
    }
}
