//! Constrained answers: random walks over the tokens that a constraint allows, and what comes of them.

mod schemas;
mod walk;
