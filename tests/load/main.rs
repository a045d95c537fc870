//! The load generator against servers that answer, and fail, as a script tells them. What is checked is what was
//! counted and how failures are told apart, never how long something took.

mod client;
mod command;
mod schedule;
mod server;
