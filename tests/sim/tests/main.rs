//! Runs of the simulator: many seeds, determinism.

mod seeds;
