//! One module per subcommand: its flags and the function that does it. What several of them need is in `flags`,
//! `budget` and `load`, which brings a model to a device; the load generator's command is `load_test`.

pub mod bench;
mod bench_copy;
mod bench_profile;
mod bench_report;
mod budget;
pub mod devices;
mod flags;
pub mod health;
pub mod inspect;
pub mod list;
mod load;
mod load_report;
pub mod load_test;
pub mod logging;
pub mod logits;
pub mod plan;
pub mod pull;
pub mod rm;
pub mod run;
pub mod serve;
pub mod tokenize;
mod vectors;
