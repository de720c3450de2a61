//! The client's side of the wire: masked frames out, HTTP responses and frames in. Written for this test alone, so
//! that it does not share a mistake with the server's codec.

use millpond::base::rng::Rng;

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Appends one masked frame.
pub(crate) fn frame(out: &mut Vec<u8>, rng: &mut Rng, opcode: u8, fin: bool, payload: &[u8]) {
    out.push(opcode | if fin { 0x80 } else { 0 });
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    let mask = (rng.next_u64() as u32).to_be_bytes();
    out.extend(mask);
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
}

/// Appends a message, sometimes in fragments with a ping between them.
pub(crate) fn message(out: &mut Vec<u8>, rng: &mut Rng, opcode: u8, payload: &[u8]) {
    if payload.len() < 2 || rng.below(8) > 0 {
        return frame(out, rng, opcode, true, payload);
    }
    let cut = rng.between(1, payload.len() as u32 - 1) as usize;
    frame(out, rng, opcode, false, &payload[..cut]);
    if rng.below(4) == 0 {
        frame(out, rng, PING, true, b"between");
    }
    frame(out, rng, 0, true, &payload[cut..]);
}

/// What a client sees.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    /// Status of the HTTP response.
    Http(u16),
    /// A text or binary frame, which server frames always carry whole.
    Data(u8, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
}

/// Takes the next whole thing out of `bytes`. `in_http` until the response head has been seen.
pub(crate) fn next(bytes: &mut Vec<u8>, in_http: &mut bool) -> Option<Seen> {
    if *in_http {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(bytes.drain(..end).collect()).expect("a head in ASCII");
        *in_http = false;
        return Some(Seen::Http(head[9..12].parse().expect("a status")));
    }
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!(second & 0x80, 0, "a masked frame from the server");
    assert_eq!(first & 0xF0, 0x80, "a server frame with FIN and without RSV: {first:#x}");
    let (header, length) = match second {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    if bytes.len() < header + length {
        return None;
    }
    let payload: Vec<u8> = bytes.drain(..header + length).skip(header).collect();
    Some(match first & 0x0F {
        opcode @ (TEXT | BINARY) => Seen::Data(opcode, payload),
        PING => Seen::Ping(payload),
        PONG => Seen::Pong(payload),
        CLOSE if payload.len() < 2 => Seen::Close(1005, String::new()),
        CLOSE => {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            Seen::Close(code, String::from_utf8(payload[2..].to_vec()).expect("a reason in UTF-8"))
        }
        opcode => panic!("opcode {opcode} from the server"),
    })
}
