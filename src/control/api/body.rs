//! Reads a request body within bounds of size, time and, over all requests, memory.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Refusal;
use crate::control::settings::HttpLimits;

/// Reads bodies.
pub(super) struct BodyReader {
    limit: usize,
    time: Duration,
    /// One permit a KiB.
    memory: Arc<Semaphore>,
    units: u32,
}

/// A whole body, charged until it is dropped.
pub(super) struct WholeBody {
    pub(super) bytes: Bytes,
    _charge: OwnedSemaphorePermit,
}

const CHARGE_UNIT: usize = 1024;
/// What a semaphore holds on every platform.
const UNITS_MAX: u32 = u32::MAX >> 3;

impl BodyReader {
    pub(super) fn new(limit: usize, limits: &HttpLimits) -> Self {
        let units = u32::try_from(limits.body_bytes / CHARGE_UNIT).unwrap_or(u32::MAX).clamp(1, UNITS_MAX);
        Self { limit, time: limits.body_timeout, memory: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// The memory is charged before the first byte is read: as much as the sender announces, or the limit. Where it is
    /// used up the request waits for its turn, and the sender with it.
    pub(super) async fn read(&self, request: Request) -> Result<WholeBody, Refusal> {
        let body = request.into_body();
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > self.limit {
            return Err(Refusal::TooLarge);
        }
        let most = body.size_hint().exact().map_or(self.limit, |_| announced);
        let units = u32::try_from(most.div_ceil(CHARGE_UNIT)).unwrap_or(u32::MAX).min(self.units);
        let charge = timeout(self.time, Arc::clone(&self.memory).acquire_many_owned(units)).await;
        let charge = charge.map_err(|_| Refusal::Busy)?.map_err(|_| Refusal::Busy)?;
        let collected = timeout(self.time, Limited::new(body, self.limit).collect()).await;
        match collected.map_err(|_| Refusal::TooSlow)? {
            Ok(collected) => Ok(WholeBody { bytes: collected.to_bytes(), _charge: charge }),
            Err(error) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge),
            Err(_) => Err(Refusal::BrokenOff),
        }
    }
}
