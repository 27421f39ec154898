//! The command line: one file per verb, each an HTTP client of the agent, but for `agent` itself.

pub(crate) mod agent;
mod catalog;
mod client;
pub(crate) mod flags;
mod info;
mod kv;
mod members;
mod membership;
mod operator;
mod out;
mod raft_reset;
mod services;
mod snapshot;
mod transfer;
mod validate;
mod version;

use std::process::ExitCode;

use flags::{Flag, Given};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// One line for stderr, exit code 1.
    Message(String),
    /// A line in Consul's own words, which scripts may compare; exit code 1.
    Verbatim(String),
    /// Nothing more to say; the exit code says it.
    Code(u8),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Message(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Failure::Message(text.to_owned())
    }
}

/// What a command gives back.
pub(crate) type Done = Result<(), Failure>;

/// A verb of the command line.
pub(crate) struct Command {
    /// Its words: `kv get`.
    pub(crate) name: &'static str,
    /// One line for the list of commands.
    pub(crate) summary: &'static str,
    /// Arguments after the flags, for the usage line.
    pub(crate) arguments: &'static str,
    /// Its own flags.
    pub(crate) flags: fn() -> Vec<Flag>,
    /// Whether it talks to an agent, and so takes the client's flags too.
    pub(crate) client: bool,
    /// Does it.
    pub(crate) run: fn(&Given) -> Done,
}

fn commands() -> Vec<Command> {
    let mut commands =
        vec![agent::COMMAND, info::COMMAND, members::COMMAND, validate::COMMAND, version::COMMAND];
    commands.extend(catalog::COMMANDS);
    commands.extend(kv::COMMANDS);
    commands.extend(membership::COMMANDS);
    commands.extend(operator::autopilot::COMMANDS);
    commands.extend(operator::raft::COMMANDS);
    commands.push(raft_reset::COMMAND);
    commands.extend(services::COMMANDS);
    commands.extend(snapshot::COMMANDS);
    commands.extend(transfer::COMMANDS);
    commands.sort_by_key(|command| command.name);
    commands
}

/// Runs the command line; returns the exit code (spec/agent.md §36).
pub(crate) fn run(args: &[String]) -> ExitCode {
    let commands = commands();
    match args.first().map(String::as_str) {
        Some("-v" | "--version" | "-version") => {
            return finish(version::run(&Given::default()));
        }
        Some("-h" | "--help" | "-help" | "help") => {
            out::line(overview(&commands, ""));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    // The longest name that the first words spell.
    let words: Vec<&str> =
        args.iter().map(String::as_str).take_while(|word| !word.starts_with('-')).take(3).collect();
    for count in (1..=words.len()).rev() {
        let name = words[..count].join(" ");
        if let Some(command) = commands.iter().find(|command| command.name == name) {
            return one(command, &args[count..]);
        }
        if commands.iter().any(|command| in_group(command, &name)) {
            let help = args[count..].iter().any(|arg| asks_for_help(arg));
            out::line(overview(&commands, &name));
            return if help { ExitCode::SUCCESS } else { ExitCode::from(1) };
        }
    }
    out::error(overview(&commands, ""));
    ExitCode::from(127)
}

fn in_group(command: &Command, group: &str) -> bool {
    command.name.strip_prefix(group).is_some_and(|rest| rest.starts_with(' '))
}

fn one(command: &Command, args: &[String]) -> ExitCode {
    let own = (command.flags)();
    let shared: &[Flag] = if command.client { client::FLAGS } else { &[] };
    if args.iter().take_while(|arg| *arg != "--").any(|arg| asks_for_help(arg)) {
        return help(command, &own, shared);
    }
    let given = match flags::parse(&[&own, shared], args) {
        Ok(given) => given,
        Err(error) => {
            out::error(format!("error: {error}; see muster {} -help", command.name));
            return ExitCode::from(1);
        }
    };
    finish((command.run)(&given))
}

/// Wherever it stands, as with Consul (spec/agent.md §36).
fn asks_for_help(arg: &str) -> bool {
    matches!(arg, "-h" | "--help" | "-help")
}

fn help(command: &Command, own: &[Flag], shared: &[Flag]) -> ExitCode {
    let line = format!("muster {} [options] {}", command.name, command.arguments);
    let groups: Vec<(&str, &[Flag])> = [("Options", own), ("How to reach the agent", shared)]
        .into_iter()
        .filter(|(_, flags)| !flags.is_empty())
        .collect();
    out::line(flags::usage(line.trim_end(), command.summary, &groups));
    ExitCode::SUCCESS
}

fn finish(done: Done) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Message(text)) => {
            out::error(format!("error: {text}"));
            ExitCode::from(1)
        }
        Err(Failure::Verbatim(text)) => {
            out::error(text);
            ExitCode::from(1)
        }
        Err(Failure::Code(code)) => ExitCode::from(code),
    }
}

/// The list of commands, or of those in one group.
fn overview(commands: &[Command], group: &str) -> String {
    let mut text = format!(
        "Usage: muster {}<command> [options] [arguments]\n\nCommands:\n",
        if group.is_empty() { String::new() } else { format!("{group} ") }
    );
    let rows: Vec<Vec<String>> = commands
        .iter()
        .filter(|command| group.is_empty() || in_group(command, group))
        .map(|command| vec![format!("  {}", command.name), command.summary.to_owned()])
        .collect();
    text.push_str(&out::table(&rows));
    text.push_str("\n\nEvery command takes -help.");
    text
}

/// The arguments after the flags, when there must be none.
fn no_arguments(given: &Given) -> Done {
    if given.rest.is_empty() {
        return Ok(());
    }
    Err(format!("Unexpected extra arguments: {:?}", given.rest).into())
}
