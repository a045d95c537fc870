//! Models as data: a family's description, a file's dimensions and weights, and the one function that lowers them to plans.
//! It knows nothing of requests, text or devices.

pub mod architecture;
pub mod dims;
mod error;
pub mod excerpt;
pub mod families;
pub mod load;
pub mod lower;
pub mod memory;
pub mod rope;
pub mod weights;

pub use error::ModelError;
