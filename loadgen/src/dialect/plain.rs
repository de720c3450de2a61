//! Plain WebSocket for servers that do not speak the client protocol: the user gives the first frames, how to tell
//! that a client is ready, and how to publish.

use memchr::memmem;

use super::{Command, Incoming, Opening, Reply, ReplyBody};
use crate::marker;
use crate::template::{Template, Values};
use crate::ws;

/// How to talk to another server.
#[derive(Debug, Clone, Default)]
pub struct Plain {
    /// The subprotocol to offer.
    pub subprotocol: Option<String>,
    /// Frames to send after the upgrade; those with `{channel}` once per channel.
    pub first_frames: Vec<Template>,
    /// A text that an incoming frame holds when the client is ready; `None` if the upgrade is enough.
    pub ready: Option<String>,
    /// A text that marks an application ping, and the frame that answers it.
    pub ping: Option<(String, Template)>,
    /// The frame that publishes `{payload}` into `{channel}`.
    pub publish: Option<Template>,
    /// Whether frames go out as binary.
    pub binary: bool,
}

impl Plain {
    fn opcode(&self) -> tungstenite::protocol::frame::coding::OpCode {
        if self.binary { ws::BINARY } else { ws::TEXT }
    }

    pub(super) fn write_opening(&self, opening: &Opening<'_>, mask: [u8; 4], out: &mut Vec<u8>) {
        let values =
            Values { number: opening.number, user: opening.user, token: opening.token, ..Values::default() };
        for frame in &self.first_frames {
            let per_channel = frame.names_channel().then_some(opening.channels);
            for channel in per_channel.unwrap_or(&[String::new()]) {
                let text = frame.render(&Values { channel, ..values });
                ws::write_frame(out, self.opcode(), text.as_bytes(), mask);
            }
        }
    }

    pub(super) fn write_command(&self, command: Command<'_>, mask: [u8; 4], out: &mut Vec<u8>) {
        if let (Command::Publish { channel, data }, Some(frame)) = (command, &self.publish) {
            let payload = std::str::from_utf8(data).unwrap_or_default();
            let text = frame.render(&Values { channel, payload, ..Values::default() });
            ws::write_frame(out, self.opcode(), text.as_bytes(), mask);
        }
    }

    pub(super) fn write_pong(&self, mask: [u8; 4], out: &mut Vec<u8>) {
        if let Some((_, answer)) = &self.ping {
            ws::write_frame(out, self.opcode(), answer.render(&Values::default()).as_bytes(), mask);
        }
    }

    pub(super) fn read(&self, payload: &[u8], take: &mut dyn FnMut(Incoming)) {
        let mut any = false;
        for marker in marker::all(payload) {
            any = true;
            take(Incoming::Delivery(marker, None));
        }
        if any {
            return;
        }
        let holds = |text: &str| memmem::find(payload, text.as_bytes()).is_some();
        if self.ping.as_ref().is_some_and(|(text, _)| holds(text)) {
            take(Incoming::Ping);
        } else if self.ready.as_deref().is_some_and(holds) {
            take(Incoming::Reply(Reply { id: 1, body: ReplyBody::Done }));
        } else {
            take(Incoming::Other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    #[test]
    fn a_frame_with_a_channel_is_sent_once_per_channel() {
        let plain = Plain {
            first_frames: vec![
                Template::parse("hello {user}").unwrap(),
                Template::parse("SUB {channel}").unwrap(),
            ],
            ready: Some("ok".into()),
            ..Plain::default()
        };
        let channels = ["a".to_owned(), "b".to_owned()];
        let opening =
            Opening { number: 1, user: "u", token: "", channels: &channels, positions: &[], personal: None };
        let mut out = Vec::new();
        plain.write_opening(&opening, [0; 4], &mut out);
        let text = String::from_utf8_lossy(&out);
        assert!(text.contains("hello u") && text.contains("SUB a") && text.contains("SUB b"), "{text}");
        let mut found = Vec::new();
        let dialect = Dialect::Plain(Box::new(plain));
        dialect.read(ws::TEXT, b"{\"ok\":1}", false, &mut |one| found.push(one));
        assert_eq!(found, [Incoming::Reply(Reply { id: 1, body: ReplyBody::Done })]);
    }
}
