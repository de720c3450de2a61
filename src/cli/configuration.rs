//! `check-config` and `default-config`.

use clap::{Args, ValueEnum};

use super::{CliError, ConfigArgs, print, say};
use crate::config::{Config, Format, default_config, keys_reference};

#[derive(Args, Debug)]
pub(super) struct DefaultArgs {
    /// Format to print.
    #[arg(long, value_enum, default_value_t = Printed::Toml)]
    format: Printed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Printed {
    Toml,
    Yaml,
    Json,
    /// The reference of all keys as a page: `docs/CONFIGURATION.md`.
    Markdown,
}

pub(super) fn print_default(args: &DefaultArgs) -> Result<(), CliError> {
    let text = match args.format {
        Printed::Toml => default_config(Format::Toml),
        Printed::Yaml => default_config(Format::Yaml),
        Printed::Json => default_config(Format::Json),
        Printed::Markdown => keys_reference(),
    };
    Ok(print(&text)?)
}

pub(super) fn check(args: ConfigArgs) -> Result<(), CliError> {
    let subject = match &args.config {
        Some(path) => path.display().to_string(),
        None => "defaults and environment".to_owned(),
    };
    let config = args.load()?;
    say_remarks(&config);
    // The file is as valid on a host that cannot run it: where it will run may be another one.
    match crate::app::capacity_remark(&config) {
        Ok(None) => {}
        Ok(Some(remark)) => say(&format!("millpond: warning: {remark}")),
        Err(error) => say(&format!("millpond: warning: on this host, with these limits: {error}")),
    }
    print(&format!("{subject}: valid\n"))?;
    if let Some(storage) = &config.storage {
        print(&format!("storage in {}: {}\n", storage.path.display(), storage.log.sync.in_words()))?;
    }
    Ok(())
}

/// What is permitted but should be known; the running gateway writes it to its log.
fn say_remarks(config: &Config) {
    for notice in &config.notices {
        say(&format!("millpond: warning: {notice}"));
    }
    for key in &config.unserved {
        say(&format!("millpond: warning: {key} is not served by this version and has no effect"));
    }
}
