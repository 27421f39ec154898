//! Runs of the simulator: many seeds, determinism.

mod determinism;
mod planted;
mod seeds;
