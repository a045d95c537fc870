//! `hesper serve` as a process on a real device: several models, and how it ends.

mod harness;
mod models;
mod operation;
