//! `validate`: reads configuration as the agent would, without starting it.

use super::flags::{Flag, Given, Kind, flag, parse};
use super::{Command, Done, out};
use crate::config;

/// The verb.
pub(super) const COMMAND: Command = Command {
    name: "validate",
    summary: "Checks configuration files and directories without starting an agent.",
    arguments: "<file or directory>…",
    flags: || FLAGS.to_vec(),
    client: false,
    run,
};

static FLAGS: &[Flag] = &[
    flag("config-format", Kind::Value, "json: read files as JSON whatever their names."),
    flag("quiet", Kind::Bool, "Say nothing when all is well."),
];

fn run(given: &Given) -> Done {
    if given.rest.is_empty() {
        return Err("Must specify at least one config file or directory".into());
    }
    let mut args: Vec<String> =
        given.rest.iter().map(|path| format!("-config-file={path}")).collect();
    args.extend(given.get("config-format").map(|format| format!("-config-format={format}")));
    let agent_flags = parse(&[&config::flags()], &args)?;
    let checked = config::load(&agent_flags).and_then(|tree| {
        config::build(&tree, false, &config::Machine::here()?, |_| Ok(model::NodeId([0; 16])))
    });
    match checked {
        Ok(settings) => {
            for warning in settings.warnings {
                out::error(warning);
            }
            if !given.is("quiet") {
                out::line("Configuration is valid!");
            }
            Ok(())
        }
        Err(error) => Err(format!("Config validation failed: {error}").into()),
    }
}
