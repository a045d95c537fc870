//! Flags that several subcommands share, and how their values are read.

use anyhow::{Context, Result};
use clap::builder::{BoolishValueParser, PathBufValueParser};
use clap::{Args, ValueEnum};
use hesper::engine::runner::{DRAFT_MAX, KvType, SEQUENCES_MAX};
use hesper::pull::{Store, has_scheme};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Prompt tokens evaluated at once unless asked otherwise. On lavapipe (Mesa 26.2, two cores, the demo model, 2026-11-21)
/// a prompt of 512 runs at 2200 t/s with 16, 3200 with 64 and 2200 with 256.
const CHUNK_DEFAULT: u32 = 64;
const CHUNK_MAX: u32 = 1024;

/// Most tokens of a draft unless asked otherwise. On lavapipe (Mesa 26.2.6, two cores of an EPYC with Zen 5, Qwen3-0.6B's
/// shape in Q4_0, 2026-11-21) copying runs 2.4, 2.9, 2.6 and 2.4 times as fast with 3, 7, 15 and 31. On a GPU eight rows are
/// one pass over the weights (see `Policy::mat_mul`); none was measured.
const DRAFT_DEFAULT: u32 = 7;

/// Sequences at once unless asked otherwise.
const PARALLEL_DEFAULT: u32 = 16;

#[derive(Args, Clone, Debug)]
pub struct ModelFlag {
    /// A model: a GGUF file (of a split model, the first), a name of `hesper list`, or the source it was pulled from.
    #[arg(short, long, env = "HESPER_MODEL", value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    models: ModelsFlag,
}

impl ModelFlag {
    pub fn path(&self) -> Result<PathBuf> {
        self.models.resolve(&self.model)
    }
}

#[derive(Args, Clone, Debug)]
pub struct ModelsFlag {
    /// Folder of pulled models [default: $XDG_DATA_HOME/hesper/models, or ~/.local/share/hesper/models].
    #[arg(long, env = "HESPER_MODELS", value_name = "FOLDER", value_parser = PathBufValueParser::new())]
    models: Option<PathBuf>,
}

impl ModelsFlag {
    pub fn store(&self) -> Result<Store> {
        let folder = self.models.clone().or_else(|| Store::default_folder(|name| std::env::var_os(name)));
        folder.map(Store::new).context("there is no folder for models: neither --models nor HOME is set")
    }

    /// The file that a path, a name or a source stands for. A path that exists wins, and what can only be a path is left
    /// for whoever opens it to complain about.
    pub fn resolve(&self, model: &Path) -> Result<PathBuf> {
        match model.to_str() {
            Some(text) if !model.exists() && (has_scheme(text) || !text.contains('/')) => {
                Ok(self.store()?.find(text)?)
            }
            _ => Ok(model.to_owned()),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct DeviceFlags {
    /// The Vulkan device: its index, part of its name or driver, or auto. `hesper devices` lists them.
    #[arg(long, env = "HESPER_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Let auto take a software device, which runs on the CPU and is slow, where there is no other.
    #[arg(long, env = "HESPER_ALLOW_SOFTWARE", value_parser = BoolishValueParser::new())]
    pub allow_software: bool,
    /// Device memory that may be used, as 512M or 4G [default: most of the device's memory].
    #[arg(long, env = "HESPER_MEMORY_BUDGET", value_name = "SIZE", value_parser = size)]
    pub memory_budget: Option<u64>,
    /// Do not check at start that the driver computes each kernel of the model right.
    #[arg(long, env = "HESPER_SKIP_SELF_TEST", value_parser = BoolishValueParser::new())]
    pub skip_self_test: bool,
    /// Folder for compiled kernels, which the next start then need not compile, or none
    /// [default: $XDG_CACHE_HOME/hesper/kernels, or ~/.cache/hesper/kernels].
    #[arg(long, env = "HESPER_KERNEL_CACHE", value_name = "FOLDER", value_parser = PathBufValueParser::new())]
    pub kernel_cache: Option<PathBuf>,
    /// How products are cut into workgroups: auto measures it where a GPU meets a format of weights first, and keeps that
    /// beside the compiled kernels; measure does so now, on any device; off takes the tables.
    #[arg(long, env = "HESPER_TUNE", default_value = "auto", value_name = "WHEN", value_enum)]
    pub tune: Tune,
    /// On lavapipe, from Mesa 26 on: give each of its threads a core of its own, and do all layers of a token one behind another
    /// while threads wait for each other without sleeping. For machines that do nothing else.
    #[arg(long, env = "HESPER_OWN_CORES", value_parser = BoolishValueParser::new())]
    pub own_cores: bool,
    /// Prompt tokens evaluated at once: a power of two.
    #[arg(long, env = "HESPER_CHUNK", default_value_t = CHUNK_DEFAULT, value_name = "N", value_parser = chunk)]
    pub chunk: u32,
}

/// When to measure geometries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tune {
    Auto,
    Measure,
    Off,
}

impl DeviceFlags {
    /// Where compiled kernels are kept, if anywhere.
    pub fn kernel_cache(&self) -> Option<PathBuf> {
        match &self.kernel_cache {
            Some(folder) => Some(folder.clone()).filter(|folder| folder.as_os_str() != "none"),
            None => default_kernel_cache(|name| std::env::var_os(name)),
        }
    }
}

fn default_kernel_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Some(cache?.join("hesper/kernels"))
}

#[derive(Args, Clone, Debug)]
pub struct ContextFlag {
    /// Longest sequence, prompt and answer together, in tokens [default: the model's own, at most 4096].
    #[arg(long, env = "HESPER_CTX", value_name = "N")]
    pub ctx: Option<u32>,
}

#[derive(Args, Clone, Debug)]
pub struct KvTypeFlag {
    /// How the cache holds keys and values: f16, or q8_0, which takes half of the memory and is a little less precise.
    #[arg(long, env = "HESPER_KV_TYPE", default_value = "f16", value_name = "TYPE", value_enum)]
    kv_type: KvTypeName,
}

impl KvTypeFlag {
    pub fn kv_type(&self) -> KvType {
        self.kv_type.into()
    }
}

/// A [`KvType`] as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
pub enum KvTypeName {
    #[value(name = "f16")]
    #[serde(rename = "f16")]
    F16,
    #[value(name = "q8_0")]
    #[serde(rename = "q8_0")]
    Q8_0,
}

impl From<KvTypeName> for KvType {
    fn from(name: KvTypeName) -> KvType {
        match name {
            KvTypeName::F16 => KvType::F16,
            KvTypeName::Q8_0 => KvType::Q8_0,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct SpeculateFlags {
    /// Draft tokens and verify several in one step, where few sequences are answered: ngram takes what followed the last
    /// tokens earlier in the prompt or the answer. Answers are the same with off.
    #[arg(long, env = "HESPER_SPECULATE", default_value = "ngram", value_name = "HOW", value_enum)]
    speculate: Speculate,
    /// Most tokens of a draft, from 3 on.
    #[arg(long, env = "HESPER_DRAFT_MAX", default_value_t = DRAFT_DEFAULT, value_name = "N",
          value_parser = clap::value_parser!(u32).range(3..=i64::from(DRAFT_MAX)))]
    draft_max: u32,
}

impl SpeculateFlags {
    /// 0 where nothing is drafted.
    pub fn draft_max(&self) -> u32 {
        match self.speculate {
            Speculate::Ngram => self.draft_max,
            Speculate::Off => 0,
        }
    }
}

/// Where drafts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Speculate {
    Ngram,
    Off,
}

/// How many sequences a model is loaded for, how long they may be, and what holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    pub context_tokens: Option<u32>,
    pub sequences: u32,
    pub cache_tokens: Option<u32>,
    pub kv_type: KvType,
    pub draft_max: u32,
}

impl Sharing {
    /// One sequence has the model to itself, without drafts.
    pub fn alone(context_tokens: Option<u32>, kv_type: KvType) -> Sharing {
        Sharing { context_tokens, sequences: 1, cache_tokens: None, kv_type, draft_max: 0 }
    }
}

#[derive(Args, Clone, Debug)]
pub struct SharingFlags {
    #[command(flatten)]
    context: ContextFlag,
    /// Sequences that are answered at once; further requests wait.
    #[arg(long, env = "HESPER_PARALLEL", default_value_t = PARALLEL_DEFAULT, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(SEQUENCES_MAX)))]
    parallel: u32,
    /// Tokens that the cache holds, of all sequences together [default: those of four sequences of full length, at least 1024
    /// for each where they may be that long, or as many as fit].
    #[arg(long, env = "HESPER_CACHE_TOKENS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cache_tokens: Option<u32>,
    #[command(flatten)]
    kv_type: KvTypeFlag,
    #[command(flatten)]
    speculate: SpeculateFlags,
}

impl SharingFlags {
    pub fn sharing(&self) -> Sharing {
        Sharing {
            context_tokens: self.context.ctx,
            sequences: self.parallel,
            cache_tokens: self.cache_tokens,
            kv_type: self.kv_type.kv_type(),
            draft_max: self.speculate.draft_max(),
        }
    }
}

/// Bytes of a size as `4G`, `512MiB`, `1.5g` or `1000000`; K, M, G and T are powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    const WRONG: &str = "give a size as 512M, 4G or 1.5GiB";
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(WRONG.to_owned()),
    };
    let number: f64 = digits.trim_end().parse().map_err(|_| WRONG.to_owned())?;
    let bytes = number * 1024f64.powi(power);
    // Beyond 2⁵³ floats skip integers, and no device is that large.
    if !(0.0..=(1u64 << 53) as f64).contains(&bytes) {
        return Err(WRONG.to_owned());
    }
    Ok(bytes as u64)
}

pub fn chunk(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|rows: &u32| rows.is_power_of_two() && (4..=CHUNK_MAX).contains(rows))
        .ok_or_else(|| format!("give a power of two from 4 to {CHUNK_MAX}"))
}

/// A number in a closed range of floats, for sampling parameters.
pub fn between(text: &str, low: f32, high: f32) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|value: &f32| (low..=high).contains(value))
        .ok_or_else(|| format!("give a number from {low} to {high}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("1000000"), Ok(1_000_000));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size(" 4 GiB "), Ok(4 << 30));
        assert_eq!(size("1.5g"), Ok(3 << 29));
        for wrong in ["", "G", "-1G", "4X", "4 G G", "inf", "nan", "1e300", "99999999T"] {
            size(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn kernels_are_kept_where_caches_belong() {
        let with = |cache: &str, home: &str| {
            let (cache, home) = (OsString::from(cache), OsString::from(home));
            default_kernel_cache(|name| Some(if name == "HOME" { home.clone() } else { cache.clone() }))
        };
        assert_eq!(with("/c", "/h"), Some("/c/hesper/kernels".into()));
        assert_eq!(with("relative", "/h"), Some("/h/.cache/hesper/kernels".into()));
        assert_eq!(with("", ""), None);
    }

    #[test]
    fn chunks_and_ranges() {
        assert_eq!(chunk("128"), Ok(128));
        for wrong in ["0", "2", "96", "2048", "x"] {
            chunk(wrong).expect_err(wrong);
        }
        assert_eq!(between("0.5", 0.0, 1.0), Ok(0.5));
        between("NaN", 0.0, 1.0).expect_err("not a number");
        between("1.5", 0.0, 1.0).expect_err("too large");
    }
}
