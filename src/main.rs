//! The one binary of Muster.

mod cli;
mod config;
mod log;
mod process;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Takes a tenth less of a put's processor time than the system's allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Fails only when it is there already, and nothing was started before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    cli::run(&args)
}
