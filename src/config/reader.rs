//! Reads a tree of values into sections and collects everything that is wrong on the way.

use serde_json::{Map, Value};

use super::problem::{Place, Problem};
use super::suggest;
use super::tree::Origins;
use super::unserved::{self, Unserved};
use super::value::Setting;

/// One key as documentation and suggestions need it.
pub(super) struct Key {
    /// Dotted path; options of every namespace stand under `channel.without_namespace` and `channel.namespaces[]`.
    pub(super) path: String,
    /// What a value must be.
    pub(super) expected: String,
    /// The default as it stands in a file.
    pub(super) default: Value,
    /// What it means.
    pub(super) doc: String,
    /// How the text of an environment variable becomes a value; `None` where no variable exists.
    pub(super) value_of_text: Option<fn(&str) -> Value>,
}

/// What a key can hold: a setting, a section, or a list of sections.
pub(super) trait Entry: Sized {
    /// Reads the value at `path`, or takes `default` where there is none or it is wrong.
    fn read(reader: &mut Reader<'_>, path: &str, value: Option<&Value>, default: Self) -> Self;
    /// Adds the keys at and below `path`.
    fn describe(path: &str, doc: &str, default: &Self, keys: &mut Vec<Key>);
}

impl<S: Setting> Entry for S {
    fn read(reader: &mut Reader<'_>, path: &str, value: Option<&Value>, default: Self) -> Self {
        match value {
            None | Some(Value::Null) => default,
            Some(value) => S::from_value(value).unwrap_or_else(|| {
                reader.wrong_value(path, S::expected(), (!S::SECRET).then_some(value));
                default
            }),
        }
    }

    fn describe(path: &str, doc: &str, default: &Self, keys: &mut Vec<Key>) {
        keys.push(Key {
            path: path.to_owned(),
            expected: S::expected(),
            default: default.to_value(),
            doc: doc.to_owned(),
            value_of_text: Some(S::value_of_text),
        });
    }
}

/// A table of keys; [`section!`] makes them.
pub(super) trait Section: Sized + Default {
    const FIELDS: &'static [&'static str];
    fn read_fields(reader: &mut Reader<'_>, path: &str, table: &Map<String, Value>, default: Self) -> Self;
    fn describe_fields(path: &str, default: &Self, keys: &mut Vec<Key>);
}

/// Collects what is found while a tree is read.
pub(super) struct Reader<'t> {
    origins: &'t Origins,
    pub(super) problems: Vec<Problem>,
    pub(super) unserved: Vec<String>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(origins: &'t Origins) -> Self {
        Self { origins, problems: Vec::new(), unserved: Vec::new() }
    }

    /// Reads a section; `also` names keys of the table that the caller reads.
    pub(super) fn section<S: Section>(
        &mut self,
        path: &str,
        value: Option<&Value>,
        default: S,
        also: &[&str],
    ) -> S {
        match value {
            None | Some(Value::Null) => default,
            Some(Value::Object(table)) => {
                for (name, value) in table {
                    if !S::FIELDS.contains(&name.as_str()) && !also.contains(&name.as_str()) {
                        self.unknown(&join(path, name), value);
                    }
                }
                S::read_fields(self, path, table, default)
            }
            Some(other) => {
                // Text and lists in the place of a section may be its secrets.
                let is_harmless = !other.is_string() && !other.is_array();
                let got = is_harmless.then_some(other);
                self.wrong_value(path, "a section with keys of its own".into(), got);
                default
            }
        }
    }

    pub(super) fn wrong_value(&mut self, path: &str, expected: String, got: Option<&Value>) {
        let place = self.place(path);
        self.problems.push(Problem::Value { place, expected, got: got.map(shortened) });
    }

    pub(super) fn place(&self, path: &str) -> Place {
        self.origins.place(path)
    }

    /// A key that no section has: one of the ecosystem that is not served yet, or a mistake.
    fn unknown(&mut self, path: &str, value: &Value) {
        match unserved::find(path) {
            Some(_) if !unserved::is_on(value) => {}
            Some(Unserved { guard: Some(guard), .. }) => {
                self.problems.push(Problem::Guard(*guard, self.place(path)));
            }
            Some(_) => self.unserved.push(path.to_owned()),
            None => {
                let likely = suggest::key(path);
                self.problems.push(Problem::UnknownKey { place: self.place(path), likely });
            }
        }
    }
}

/// `path.name`, or the name alone at the top.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A value for a message: JSON, not longer than a line.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// Declares a section: a struct with a field per key, the default of each, and what the docs say about it.
macro_rules! section {
    ($(#[$about:meta])* $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        pub(super) struct $name {
            $($(#[doc = $doc])+ pub(super) $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::config::reader::Section for $name {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];

            fn read_fields(
                reader: &mut $crate::config::reader::Reader<'_>,
                path: &str,
                table: &serde_json::Map<String, serde_json::Value>,
                default: Self,
            ) -> Self {
                Self {$(
                    $field: $crate::config::reader::Entry::read(
                        reader,
                        &$crate::config::reader::join(path, stringify!($field)),
                        table.get(stringify!($field)),
                        default.$field,
                    ),
                )+}
            }

            fn describe_fields(path: &str, default: &Self, keys: &mut Vec<$crate::config::reader::Key>) {
                $($crate::config::reader::Entry::describe(
                    &$crate::config::reader::join(path, stringify!($field)),
                    concat!($($doc),+).trim(),
                    &default.$field,
                    keys,
                );)+
            }
        }
    };
}
pub(super) use section;

/// Makes a section usable as the type of a key of another one.
macro_rules! nested {
    ($($name:ident),+) => {$(
        impl $crate::config::reader::Entry for $name {
            fn read(
                reader: &mut $crate::config::reader::Reader<'_>,
                path: &str,
                value: Option<&serde_json::Value>,
                default: Self,
            ) -> Self {
                reader.section(path, value, default, &[])
            }

            fn describe(path: &str, _: &str, default: &Self, keys: &mut Vec<$crate::config::reader::Key>) {
                $crate::config::reader::Section::describe_fields(path, default, keys);
            }
        }
    )+};
}
pub(super) use nested;
