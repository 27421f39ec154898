//! The HTTP interface of a real process.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod blocking;
mod checks;
mod kv;
mod services;
mod sessions;
mod settings;
mod start;
