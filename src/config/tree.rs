//! The layers of a configuration, laid over each other as one tree of values: file, then environment, then flags.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::problem::{Origin, Place, Problem, SyntaxError};

/// How deep a file may nest; sections need six levels.
const MAX_DEPTH: usize = 32;

/// Remembers where values came from.
#[derive(Default)]
pub(super) struct Origins {
    file: String,
    overlaid: HashMap<String, Origin>,
}

impl Origins {
    /// The place of a key: the layer that set it, or the line of the file where that is beyond doubt.
    pub(super) fn place(&self, path: &str) -> Place {
        let overlaid = self.overlaid.iter().find(|(set, _)| {
            path.strip_prefix(set.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        let origin = match overlaid {
            Some((_, origin)) => Some(origin.clone()),
            None => line_of(&self.file, path).map(Origin::Line),
        };
        Place { path: path.to_owned(), origin }
    }
}

/// The merged layers.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) root: Map<String, Value>,
    pub(super) origins: Origins,
}

impl Tree {
    /// Reads the lowest layer.
    pub(super) fn from_file(path: &Path) -> Result<Self, Problem> {
        let syntax = |source| Problem::Syntax { path: path.to_owned(), source };
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let format = Format::from_extension(extension).ok_or_else(|| Problem::Extension(path.to_owned()))?;
        let text = std::fs::read_to_string(path)
            .map_err(|source| Problem::Unreadable { path: path.to_owned(), source })?;
        let root = format.parse(&text).map_err(syntax)?;
        Ok(Self { root, origins: Origins { file: text, overlaid: HashMap::new() } })
    }

    /// Lays one value over the tree.
    pub(super) fn set(&mut self, path: &str, value: Value, origin: Origin) {
        let mut names: Vec<&str> = path.split('.').collect();
        let Some(last) = names.pop() else { return };
        let mut table = &mut self.root;
        for name in names {
            let next = table.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if !next.is_object() {
                *next = Value::Object(Map::new());
            }
            let Value::Object(inner) = next else { return };
            table = inner;
        }
        table.insert(last.to_owned(), value);
        self.origins.overlaid.insert(path.to_owned(), origin);
    }

    /// Takes a key of a section out of the tree.
    pub(super) fn remove(&mut self, path: &str) {
        let Some((section, name)) = path.rsplit_once('.') else { return };
        let mut tables = section
            .split('.')
            .try_fold(&mut self.root, |table, name| table.get_mut(name).and_then(Value::as_object_mut));
        if let Some(table) = &mut tables {
            table.remove(name);
        }
    }
}

/// Formats of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML
    Toml,
    /// YAML
    Yaml,
    /// JSON
    Json,
}

impl Format {
    fn from_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn parse(self, text: &str) -> Result<Map<String, Value>, SyntaxError> {
        let tree: Table = match self {
            Self::Toml => toml::from_str(text).map_err(|error| SyntaxError::toml(&error, text))?,
            Self::Json => serde_json::from_str(text)?,
            // A document without content is null in YAML.
            Self::Yaml => {
                serde_saphyr::from_str::<Option<Table>>(text).map_err(Box::new)?.unwrap_or_default()
            }
        };
        Ok(tree.0)
    }
}

/// A table in which no key stands twice, whatever the format's own parser thinks of that.
#[derive(Default)]
struct Table(Map<String, Value>);

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TableVisitor;
        impl<'de> Visitor<'de> for TableVisitor {
            type Value = Table;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a table of sections")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Table, A::Error> {
                read_table(map, 0).map(Table)
            }
        }
        deserializer.deserialize_map(TableVisitor)
    }
}

fn read_table<'de, A: MapAccess<'de>>(mut map: A, depth: usize) -> Result<Map<String, Value>, A::Error> {
    let mut table = Map::new();
    while let Some(key) = map.next_key::<String>()? {
        let value = map.next_value_seed(Node { depth: depth + 1 })?;
        if table.insert(key.clone(), value).is_some() {
            return Err(A::Error::custom(format_args!("the key `{key}` stands there twice")));
        }
    }
    Ok(table)
}

/// Any value inside the tree.
struct Node {
    depth: usize,
}

impl<'de> serde::de::DeserializeSeed<'de> for Node {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.depth > MAX_DEPTH {
            return Err(D::Error::custom("the tables are nested too deep"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;
    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element_seed(Node { depth: self.depth + 1 })? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        read_table(map, self.depth).map(Value::Object)
    }
}

/// The line on which the last name of a path stands, if that word stands on one line of the file only.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let name = path.rsplit('.').next()?.split('[').next()?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| has_word(line, name));
    match (lines.next(), lines.next()) {
        (Some((index, _)), None) => Some(index + 1),
        _ => None,
    }
}

fn has_word(line: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    line.split(|c| !is_part(c)).any(|word| word == name)
}
