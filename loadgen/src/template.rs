//! Names and frames with placeholders: `ch{i}`, `room{i%100}`, `shard{i/1000}`, `{user}`, `{token}`, `{channel}`,
//! `{payload}`.

use std::fmt::Write as _;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The number of the client, of which `modulus` (if not 0) leaves the remainder after division by `divisor`.
    Number {
        divisor: u32,
        modulus: u32,
    },
    User,
    Token,
    Channel,
    Payload,
}

/// What the placeholders stand for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    /// `{i}`: the number of the client, from 0.
    pub number: u32,
    /// `{user}`
    pub user: &'a str,
    /// `{token}`
    pub token: &'a str,
    /// `{channel}`
    pub channel: &'a str,
    /// `{payload}`
    pub payload: &'a str,
}

/// A template that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// A brace opens a placeholder nobody knows.
    #[error(
        "unknown placeholder {{{0}}}: use {{i}}, {{i%N}}, {{i/N}}, {{user}}, {{token}}, {{channel}} or {{payload}}"
    )]
    Unknown(String),
    /// A name in which a placeholder was begun or ended only.
    #[error("`{0}` has a brace without its other")]
    Unbalanced(String),
    /// `{i%0}` or `{i/0}`.
    #[error("the number in {{{0}}} must be above 0")]
    Zero(String),
}

impl Template {
    /// Reads a template. A brace that opens no placeholder of ours (as in a JSON frame) is plain text.
    ///
    /// # Errors
    /// [`TemplateError`] for a placeholder that looks like ours and is not.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            plain.push_str(&rest[..open]);
            rest = &rest[open + 1..];
            match rest.find('}').map(|close| (&rest[..close], &rest[close + 1..])) {
                Some((name, after)) if looks_like_a_name(name) => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::parse(name)?);
                    rest = after;
                }
                _ => plain.push('{'),
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// Appends the text with `values` put in.
    pub fn render_into(&self, values: &Values<'_>, out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Number { divisor, modulus } => {
                    let quotient = values.number / divisor;
                    let number = if *modulus == 0 { quotient } else { quotient % modulus };
                    // Writing to a String cannot fail.
                    let _ = write!(out, "{number}");
                }
                Part::User => out.push_str(values.user),
                Part::Token => out.push_str(values.token),
                Part::Channel => out.push_str(values.channel),
                Part::Payload => out.push_str(values.payload),
            }
        }
    }

    /// The text with `values` put in.
    #[must_use]
    pub fn render(&self, values: &Values<'_>) -> String {
        let mut out = String::new();
        self.render_into(values, &mut out);
        out
    }

    /// Whether `{channel}` occurs.
    #[must_use]
    pub fn names_channel(&self) -> bool {
        self.parts.contains(&Part::Channel)
    }

    /// How many different texts `clients` clients get, going by the first number in it: 1 without any.
    #[must_use]
    pub fn groups(&self, clients: u32) -> u32 {
        self.parts.iter().find_map(|part| part.groups(clients)).unwrap_or(1)
    }

    /// The group of client `number`: clients of one group share one text.
    #[must_use]
    pub fn group(&self, number: u32) -> u32 {
        match self.first_number() {
            Some((divisor, 0)) => number / divisor,
            Some((divisor, modulus)) => number / divisor % modulus,
            None => 0,
        }
    }

    /// Which of its group's members client `number` is, from 0.
    #[must_use]
    pub fn seat(&self, number: u32) -> u32 {
        match self.first_number() {
            Some((divisor, 0)) => number % divisor,
            Some((divisor, modulus)) => number / (divisor * modulus),
            None => number,
        }
    }

    /// The most members that a group has among `clients` clients.
    #[must_use]
    pub fn seats(&self, clients: u32) -> u32 {
        match self.first_number() {
            Some((divisor, 0)) => divisor.min(clients),
            Some((divisor, modulus)) => clients.div_ceil(divisor * modulus),
            None => clients,
        }
    }

    /// Divisor and modulus of the first number.
    fn first_number(&self) -> Option<(u32, u32)> {
        self.parts.iter().find_map(|part| match part {
            Part::Number { divisor, modulus } => Some((*divisor, *modulus)),
            _ => None,
        })
    }

    /// A client number that belongs to `group`, to name the channel of a group.
    #[must_use]
    pub fn member(&self, group: u32) -> u32 {
        group.saturating_mul(self.first_number().map_or(1, |(divisor, _)| divisor))
    }
}

impl Part {
    fn parse(name: &str) -> Result<Self, TemplateError> {
        let number = |digits: &str| match digits.parse::<u32>() {
            Ok(0) => Err(TemplateError::Zero(name.to_owned())),
            Ok(number) => Ok(number),
            Err(_) => Err(TemplateError::Unknown(name.to_owned())),
        };
        match name {
            "i" => Ok(Self::Number { divisor: 1, modulus: 0 }),
            "user" => Ok(Self::User),
            "token" => Ok(Self::Token),
            "channel" => Ok(Self::Channel),
            "payload" => Ok(Self::Payload),
            _ => match (name.strip_prefix("i%"), name.strip_prefix("i/")) {
                (Some(digits), _) => Ok(Self::Number { divisor: 1, modulus: number(digits)? }),
                (_, Some(digits)) => Ok(Self::Number { divisor: number(digits)?, modulus: 0 }),
                _ => Err(TemplateError::Unknown(name.to_owned())),
            },
        }
    }

    fn groups(&self, clients: u32) -> Option<u32> {
        match self {
            Self::Number { divisor, modulus } => {
                let groups = clients.div_ceil(*divisor);
                Some(if *modulus == 0 { groups } else { groups.min(*modulus) })
            }
            _ => None,
        }
    }
}

/// Placeholders are short words; a JSON object begins with a quote, a space or a line break instead.
fn looks_like_a_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"%/_".contains(&byte);
    !name.is_empty() && name.bytes().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, number: u32) -> String {
        Template::parse(text).unwrap().render(&Values { number, user: "u1", ..Values::default() })
    }

    #[test]
    fn numbers_divide_and_wrap() {
        assert_eq!(render("ch{i}", 7), "ch7");
        assert_eq!(render("room{i%5}-x", 12), "room2-x");
        assert_eq!(render("room{i/5}", 12), "room2");
        assert_eq!(render("#{user}", 12), "#u1");
    }

    #[test]
    fn braces_of_json_are_text() {
        assert_eq!(render(r#"{"sub":{"i":{i}},"x":{}}"#, 3), r#"{"sub":{"i":3},"x":{}}"#);
    }

    #[test]
    fn a_misspelt_placeholder_is_refused() {
        assert_eq!(Template::parse("{usr}"), Err(TemplateError::Unknown("usr".into())));
        assert_eq!(Template::parse("{i%0}"), Err(TemplateError::Zero("i%0".into())));
    }

    #[test]
    fn groups_and_members_agree() {
        for text in ["a{i}", "a{i%7}", "a{i/3}", "a"] {
            let template = Template::parse(text).unwrap();
            for group in 0..template.groups(20) {
                assert_eq!(template.group(template.member(group)), group, "{text}");
            }
            assert!((0..20).all(|number| template.group(number) < template.groups(20)), "{text}");
        }
    }
}
