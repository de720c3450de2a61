//! What a peer of an open WebSocket can do wrong, and the one answer to each.

/// What a peer did wrong; each has one close code, one reason and one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// A frame of a client without mask (section 5.1).
    #[error("frame not masked")]
    Unmasked,
    /// RSV1 to RSV3 without an extension that defines them.
    #[error("reserved bits set")]
    ReservedBits,
    /// Opcodes 3 to 7 and 11 to 15.
    #[error("reserved opcode")]
    ReservedOpcode,
    /// A length that is not minimal or has its top bit set.
    #[error("bad frame length")]
    BadLength,
    /// A control frame of more than 125 bytes.
    #[error("control frame too long")]
    LongControl,
    /// A control frame without FIN.
    #[error("fragmented control frame")]
    FragmentedControl,
    /// A continuation without a message to continue.
    #[error("unexpected continuation")]
    UnexpectedContinuation,
    /// A new message inside a fragmented one.
    #[error("continuation expected")]
    ContinuationExpected,
    /// A close frame of one byte, or with a code that must not be sent.
    #[error("bad close frame")]
    BadClose,
    /// Text or close reason that is not UTF-8.
    #[error("invalid UTF-8")]
    InvalidUtf8,
    /// A message over the limit.
    #[error("message too big")]
    TooBig,
    /// Ours, not the peer's: no memory for the message.
    #[error("out of memory")]
    OutOfMemory,
}

impl Violation {
    /// The close code that answers it (section 7.4.1).
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::InvalidUtf8 => 1007,
            Self::TooBig => 1009,
            Self::OutOfMemory => 1013,
            _ => 1002,
        }
    }

    /// The close reason: plain, not empty, well under 123 bytes.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unmasked => "frame not masked",
            Self::ReservedBits => "reserved bits set",
            Self::ReservedOpcode => "reserved opcode",
            Self::BadLength => "bad frame length",
            Self::LongControl => "control frame too long",
            Self::FragmentedControl => "fragmented control frame",
            Self::UnexpectedContinuation => "unexpected continuation",
            Self::ContinuationExpected => "continuation expected",
            Self::BadClose => "bad close frame",
            Self::InvalidUtf8 => "invalid UTF-8",
            Self::TooBig => "message too big",
            Self::OutOfMemory => "out of memory",
        }
    }

    /// The value of the metric label `reason`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unmasked => "unmasked",
            Self::ReservedBits => "reserved_bits",
            Self::ReservedOpcode => "reserved_opcode",
            Self::BadLength => "bad_length",
            Self::LongControl => "long_control",
            Self::FragmentedControl => "fragmented_control",
            Self::UnexpectedContinuation => "unexpected_continuation",
            Self::ContinuationExpected => "continuation_expected",
            Self::BadClose => "bad_close",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::TooBig => "too_big",
            Self::OutOfMemory => "out_of_memory",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Violation; 12] = [
        Violation::Unmasked,
        Violation::ReservedBits,
        Violation::ReservedOpcode,
        Violation::BadLength,
        Violation::LongControl,
        Violation::FragmentedControl,
        Violation::UnexpectedContinuation,
        Violation::ContinuationExpected,
        Violation::BadClose,
        Violation::InvalidUtf8,
        Violation::TooBig,
        Violation::OutOfMemory,
    ];

    #[test]
    fn every_violation_has_a_label_of_its_own_and_a_reason_that_fits() {
        let labels: std::collections::HashSet<_> = ALL.iter().map(|violation| violation.label()).collect();
        assert_eq!(labels.len(), ALL.len());
        for violation in ALL {
            assert!((1..=crate::wire::close::MAX_REASON).contains(&violation.reason().len()));
            assert!(crate::wire::close::may_be_sent(violation.code()));
            assert_eq!(violation.to_string(), violation.reason());
        }
    }
}
