//! One module per subcommand: its flags and the function that does it. What several of them need is in `flags`,
//! `budget` and `load`.

pub mod bench;
mod bench_report;
mod budget;
pub mod devices;
mod flags;
pub mod inspect;
pub mod list;
mod load;
pub mod logits;
pub mod plan;
pub mod pull;
pub mod rm;
pub mod run;
pub mod serve;
pub mod tokenize;
