//! From the refusals of the pure decisions to the codes of the protocol.

use crate::hub::channel_name::NameFault;
use crate::hub::permission::Refusal;
use crate::protocol::ErrorCode;

impl From<NameFault> for ErrorCode {
    fn from(fault: NameFault) -> Self {
        match fault {
            NameFault::UnknownChannel => Self::UnknownChannel,
            NameFault::BadRequest => Self::BadRequest,
        }
    }
}

impl From<Refusal> for ErrorCode {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::PermissionDenied => Self::PermissionDenied,
            Refusal::NotAvailable => Self::NotAvailable,
        }
    }
}
