//! The reference of all keys, rendered: the default configuration in each format, and the page `docs/CONFIGURATION.md`.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::reader::Key;
use super::tree::Format;
use super::unserved::UNSERVED;
use super::{VARIABLE_PREFIX, sections, variable_name};

/// Every key, sections in the order of the file.
pub(super) fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    sections::describe_root(&mut keys);
    keys
}

/// The default configuration with a remark on every key (JSON has no remarks).
#[must_use]
pub fn default_config(format: Format) -> String {
    let root = Level::of(keys());
    match format {
        Format::Toml => root.toml(),
        Format::Yaml => root.yaml(0),
        Format::Json => format!("{:#}\n", root.json()),
    }
}

/// A section with its keys and sections.
#[derive(Default)]
struct Level {
    keys: Vec<Key>,
    sections: Vec<(String, Level)>,
}

impl Level {
    fn of(keys: Vec<Key>) -> Self {
        let mut root = Self::default();
        // Elements of lists are described for the reference; a default list is empty.
        for key in keys.into_iter().filter(|key| !key.path.contains("[]")) {
            let section =
                key.path.rsplit_once('.').map(|(section, _)| section.to_owned()).unwrap_or_default();
            root.descend(&section).keys.push(key);
        }
        root
    }

    fn descend(&mut self, path: &str) -> &mut Self {
        if path.is_empty() {
            return self;
        }
        let (name, rest) = path.split_once('.').unwrap_or((path, ""));
        let index = match self.sections.iter().position(|(section, _)| section == name) {
            Some(index) => index,
            None => {
                self.sections.push((name.to_owned(), Self::default()));
                self.sections.len() - 1
            }
        };
        self.sections[index].1.descend(rest)
    }

    fn toml(&self) -> String {
        let mut out = String::new();
        self.write_toml("", &mut out);
        out.trim_start().to_owned()
    }

    fn write_toml(&self, path: &str, out: &mut String) {
        if !self.keys.is_empty() && !path.is_empty() {
            let _ = writeln!(out, "\n[{path}]");
        }
        for key in &self.keys {
            let _ = writeln!(out, "# {}\n{} = {}", key.doc, key.name(), key.default);
        }
        for (name, section) in &self.sections {
            section.write_toml(&super::reader::join(path, name), out);
        }
    }

    fn yaml(&self, depth: usize) -> String {
        let indent = "  ".repeat(depth);
        let mut out = String::new();
        for key in &self.keys {
            let _ = writeln!(out, "{indent}# {}\n{indent}{}: {}", key.doc, key.name(), key.default);
        }
        for (name, section) in &self.sections {
            let _ = writeln!(out, "{indent}{name}:\n{}", section.yaml(depth + 1).trim_end_matches('\n'));
        }
        out
    }

    fn json(&self) -> Value {
        let mut table = Map::new();
        for key in &self.keys {
            table.insert(key.name().to_owned(), key.default.clone());
        }
        for (name, section) in &self.sections {
            table.insert(name.clone(), section.json());
        }
        Value::Object(table)
    }
}

impl Key {
    /// The last name of the path.
    fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or(&self.path)
    }
}

/// The page `docs/CONFIGURATION.md`.
#[must_use]
pub fn keys_reference() -> String {
    let mut out = String::from(INTRODUCTION);
    let mut section = String::new();
    for key in keys() {
        let (its_section, name) = key.path.rsplit_once('.').unwrap_or((&key.path, &key.path));
        if its_section != section {
            section = its_section.to_owned();
            let _ = write!(
                out,
                "\n### `{section}`\n\n| key | default | what it means | what it takes |\n|---|---|---|---|\n"
            );
        }
        let default =
            if key.default.is_null() { "required".to_owned() } else { format!("`{}`", key.default) };
        let expected = in_short(&key.expected).replace('|', "\\|");
        let _ = writeln!(out, "| `{name}` | {default} | {} | {expected} |", key.doc.replace('|', "\\|"));
    }
    let _ = write!(out, "{VARIABLES}\n`client.ping_interval` is `{}`.\n", {
        format!("{VARIABLE_PREFIX}{}", variable_name("client.ping_interval"))
    });
    out.push_str(UNSERVED_INTRODUCTION);
    for unserved in UNSERVED {
        let path =
            unserved.path.replace("channel.options", "channel.without_namespace / channel.namespaces[]");
        let reaction = if unserved.guard.is_some() { "refuses to start" } else { "named at start-up" };
        let _ = writeln!(out, "| `{path}` | {reaction} |");
    }
    out
}

/// What a value must be without the hint on how to write it, which the page gives once at its top.
fn in_short(expected: &str) -> &str {
    let hints = [" with units", ", as a number", " (in quotes", " (without look"];
    let ends = hints.iter().filter_map(|hint| expected.find(hint));
    let end = ends.min().unwrap_or(expected.len());
    expected.get(..end).unwrap_or(expected)
}

const INTRODUCTION: &str = "\
# Configuration

This page is made by `millpond default-config --format markdown`; a test keeps it in step with the code.

A configuration is a file in TOML, YAML or JSON (the extension says which), overlaid by environment variables, overlaid by
flags of `millpond serve`. `millpond check-config --config FILE` reports everything that is wrong at once;
`millpond default-config` prints every key with its default.

* A key that does not exist, or two keys that contradict each other, refuse to start.
* Durations have units: `ms`, `s`, `m`, `h`, `d`, also combined (`\"1m30s\"`) or with decimals (`\"1.5s\"`). A bare number is
  seconds.
* Sizes are bytes, or have a unit: `kB`, `MB`, `GB` (powers of 1000), `KiB`, `MiB`, `GiB` (powers of 1024).
* Secrets come from the file or the environment; no flag takes one, as command lines can be read by every user of a host.
* `channel.namespaces` is a list of tables, each with a `name` and the options of `channel.without_namespace`; `webhook` is
  one as well.

## Keys
";

const VARIABLES: &str = "
## Environment variables

Every key is also an environment variable: its path in capitals with `_` for `.`, after `MILLPOND_`. Lists are JSON, or
words separated by spaces; `MILLPOND_CHANNEL_NAMESPACES` and `MILLPOND_WEBHOOK` are JSON lists of tables.
`MILLPOND_CONFIG` names the file. A variable with this prefix that names no key refuses to start, but for those that
Kubernetes sets for services of this name or of names that begin with it (`MILLPOND_PORT`, `MILLPOND_SERVICE_HOST` and the like),
which are passed over.
For example,";

const UNSERVED_INTRODUCTION: &str = "
## Keys of the ecosystem that are not served yet

These may stand in a file. Start-up names those that are switched on; a key that guards something refuses to start instead,
as going on without it would open what it closes.

| key | when it is switched on |
|---|---|
";
