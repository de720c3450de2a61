//! Reads recorded exchanges (golden-traces.txt) and compares them with what a server says now: the same bytes, where
//! ids, epochs and the server's version stand for themselves.

use std::collections::HashMap;

use regex::bytes::{Captures, Regex};

/// One heading of the file with its steps.
pub(crate) struct Exchange {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
    /// Lines that are neither sent nor received, such as `negotiated subprotocol`.
    pub(crate) notes: Vec<String>,
}

impl Exchange {
    /// Whether its frames are binary.
    pub(crate) fn is_protobuf(&self) -> bool {
        self.notes.iter().any(|note| note.contains("centrifuge-protobuf"))
    }
}

/// One step of an exchange.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// One frame from the client.
    Send(Vec<u8>),
    /// One message from the server.
    Receive(Vec<u8>),
    /// A close frame from the server.
    Close(u16, String),
    /// The server API was called and answered this.
    Api(String),
}

/// Reads the file. Frames in hexadecimal are decoded.
pub(crate) fn parse(text: &str) -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("#### ") {
            exchanges.push(Exchange { name: name.to_owned(), steps: Vec::new(), notes: Vec::new() });
        } else if let Some(exchange) = exchanges.last_mut() {
            parse_line(exchange, line);
        }
    }
    exchanges
}

fn parse_line(exchange: &mut Exchange, line: &str) {
    let steps = &mut exchange.steps;
    if let Some(rest) = line.strip_prefix("> (same frame) ") {
        match steps.last_mut() {
            Some(Step::Send(frame)) => frame.extend(payload(rest)),
            _ => panic!("nothing to continue: {line}"),
        }
    } else if let Some(rest) = line.strip_prefix("> ") {
        steps.push(Step::Send(payload(rest)));
    } else if let Some(rest) = line.strip_prefix("< CLOSE ") {
        let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        steps.push(Step::Close(code.parse().unwrap(), reason.trim_matches('\'').to_owned()));
    } else if let Some(rest) = line.strip_prefix("< ") {
        let text = rest.trim_start_matches("(same frame) ").trim_end_matches(" [binary]").trim_end();
        steps.push(Step::Receive(payload(text.trim_end_matches("\\n"))));
    } else if let Some(rest) = line.strip_prefix("  (server API -> ") {
        steps.push(Step::Api(rest.trim_end_matches(" )").to_owned()));
    } else if !line.is_empty() {
        exchange.notes.push(line.to_owned());
    }
}

/// The bytes of a frame: `\n` at the end of a piece is a line feed; a line of nothing but hexadecimal is binary.
fn payload(text: &str) -> Vec<u8> {
    let is_hex =
        !text.is_empty() && text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex {
        let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        return (0..text.len()).step_by(2).map(digits).collect();
    }
    match text.strip_suffix("\\n") {
        Some(text) => format!("{text}\n").into_bytes(),
        None => text.as_bytes().to_vec(),
    }
}

/// What differs from run to run, as recorded and as it is now.
pub(crate) struct Variables {
    pattern: Regex,
    now: HashMap<Vec<u8>, Vec<u8>>,
}

/// Connection ids, which are UUIDs of version 4.
const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}";
const EPOCH: &str = "[a-zA-Z]{8}";
/// As the recorded server called itself.
const VERSION: &str = "6.9.1 OSS";

impl Variables {
    /// Finds all variables of a recording.
    pub(crate) fn of(recording: &str) -> Self {
        let in_json = Regex::new(&format!("\"epoch\":\"({EPOCH})\"")).unwrap();
        let epochs =
            in_json.captures_iter(recording.as_bytes()).map(|found| text(&found[1])).collect::<Vec<_>>();
        let alternatives = [vec![UUID.to_owned(), regex::escape(VERSION)], epochs].concat().join("|");
        Self { pattern: Regex::new(&alternatives).unwrap(), now: HashMap::new() }
    }

    /// What to send in place of what was sent: known variables have their value of now.
    pub(crate) fn translate(&self, recorded: &[u8]) -> Vec<u8> {
        let value =
            |found: &Captures<'_>| self.now.get(&found[0]).cloned().unwrap_or_else(|| found[0].to_vec());
        self.pattern.replace_all(recorded, value).into_owned()
    }

    /// Whether `actual` is what was recorded. A variable met for the first time takes its value of now, which must
    /// have the right form and be nobody else's.
    pub(crate) fn matches(&mut self, recorded: &[u8], actual: &[u8]) -> Result<(), String> {
        let mut expected = String::from("(?s-u)\\A");
        let (mut at, mut learned) = (0, Vec::new());
        for found in self.pattern.find_iter(recorded) {
            expected.push_str(&escape(&recorded[at..found.start()]));
            at = found.end();
            match self.now.get(found.as_bytes()) {
                Some(value) => expected.push_str(&escape(value)),
                None => {
                    expected.push_str(&format!("({})", form_of(found.as_bytes())));
                    learned.push(found.as_bytes().to_vec());
                }
            }
        }
        expected.push_str(&escape(&recorded[at..]));
        expected.push_str("\\z");
        let Some(captures) = Regex::new(&expected).unwrap().captures(actual) else {
            let recorded = text(&self.translate(recorded));
            return Err(format!("\n  recorded {recorded}\n  now      {}", text(actual)));
        };
        for (index, name) in learned.into_iter().enumerate() {
            let value = captures[index + 1].to_vec();
            if self.now.get(&name).is_none_or(|known| *known != value) {
                if self.now.values().any(|known| *known == value) {
                    return Err(format!("`{}` is used twice", text(&value)));
                }
                self.now.insert(name, value);
            }
        }
        Ok(())
    }
}

/// The form a variable must have.
fn form_of(recorded: &[u8]) -> &'static str {
    match recorded.len() {
        36 => UUID,
        8 => EPOCH,
        _ => "[^\"]+?",
    }
}

/// A literal in a pattern over bytes, whatever the bytes are.
fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02X}")).collect()
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\\"", "\"")
}

mod checker {
    use super::*;

    const ID: &str = "299eeec3-30e1-41a1-872c-df91c4a6e679";
    const OTHER: &str = "11111111-30e1-41a1-872c-df91c4a6e679";

    #[test]
    fn a_recording_is_read_step_by_step() {
        let text = "\n#### one\n> {\"a\":1}\\n\n> (same frame) {\"b\":2}\n< {\"c\":3}\\n\n< (same frame) {\"d\":4} \n\
                    < CLOSE 3501 'bad request'\n\n#### two\nnegotiated: x\n> 0408\n< 00ff [binary]\n> \n  (server API -> {} )\n";
        let exchanges = parse(text);
        assert_eq!(exchanges.len(), 2);
        let one = [
            Step::Send(b"{\"a\":1}\n{\"b\":2}".to_vec()),
            Step::Receive(b"{\"c\":3}".to_vec()),
            Step::Receive(b"{\"d\":4}".to_vec()),
            Step::Close(3501, "bad request".to_owned()),
        ];
        assert_eq!(exchanges[0].steps, one);
        let two = [
            Step::Send(vec![4, 8]),
            Step::Receive(vec![0, 255]),
            Step::Send(Vec::new()),
            Step::Api("{}".to_owned()),
        ];
        assert_eq!(exchanges[1].steps, two);
        assert_eq!(exchanges[1].notes, ["negotiated: x"]);
    }

    #[test]
    fn variables_are_learned_once_and_hold_from_then_on() {
        let recorded = format!("{{\"client\":\"{ID}\",\"version\":\"6.9.1 OSS\",\"epoch\":\"IRkxzhdT\"}}");
        let mut variables = Variables::of(&recorded);
        let now = format!("{{\"client\":\"{OTHER}\",\"version\":\"0.1.0\",\"epoch\":\"abcdefgh\"}}");
        variables.matches(recorded.as_bytes(), now.as_bytes()).unwrap();
        variables.matches(recorded.as_bytes(), now.as_bytes()).unwrap();
        assert!(
            variables.matches(recorded.as_bytes(), recorded.as_bytes()).is_err(),
            "another value than before"
        );
        assert_eq!(variables.translate(b"IRkxzhdT"), b"abcdefgh");
    }

    #[test]
    fn anything_else_must_be_the_same() {
        let recorded = format!("{{\"client\":\"{ID}\",\"ping\":25}}");
        for now in [
            format!("{{\"client\":\"{OTHER}\",\"ping\":26}}"),
            format!("{{\"client\":\"{OTHER}\",\"ping\":25}} "),
            format!("{{\"client\":\"{OTHER}\", \"ping\":25}}"),
            format!("{{\"client\":\"{}\",\"ping\":25}}", "not-an-id"),
            format!("{{\"ping\":25,\"client\":\"{OTHER}\"}}"),
        ] {
            assert!(Variables::of(&recorded).matches(recorded.as_bytes(), now.as_bytes()).is_err(), "{now}");
        }
    }

    #[test]
    fn two_variables_may_not_have_one_value() {
        let recorded = format!("{ID} {OTHER}");
        let now = format!("{OTHER} {OTHER}");
        assert!(Variables::of(&recorded).matches(recorded.as_bytes(), now.as_bytes()).is_err());
    }
}
