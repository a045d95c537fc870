//! Constrained answers: random walks over the tokens that a constraint allows, and what comes of them.

mod calls;
mod gbnf;
mod schemas;
mod walk;
