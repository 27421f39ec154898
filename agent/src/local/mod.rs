//! What runs on this node, and how the catalog is kept equal to it.

pub mod definition;
