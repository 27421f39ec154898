//! `agent -server …` works as a program name too: runs the `muster` beside it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let beside = std::env::current_exe().map(|own| own.with_file_name("muster"));
    let error = match beside {
        Ok(program) => Command::new(program).arg("agent").args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    };
    #[expect(clippy::print_stderr, reason = "there is no program to hand this line to")]
    {
        eprintln!("error: cannot run the muster beside this program: {error}");
    }
    ExitCode::from(1)
}
