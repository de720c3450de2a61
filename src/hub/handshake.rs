//! From the first byte to the 101: the HTTP part of a connection.

use crate::base::tick::Tick;
use crate::hub::connection::{Phase, flag};
use crate::hub::depart::Farewell;
use crate::hub::metrics::Refusal;
use crate::hub::settings::OriginPolicy;
use crate::hub::shard::{Shard, ticks_of};
use crate::wire::http::{HeadLimits, HeadScan, RequestHead, parse_head};
use crate::wire::origin::{OriginRule, origin_allowed};
use crate::wire::reject::Reject;
use crate::wire::upgrade::check_upgrade;

/// Where a request goes.
enum Route {
    Upgraded { protobuf: bool, native_ping: bool, response: Vec<u8>, head_length: usize },
    ControlPlane,
}

impl Shard {
    /// Bytes of a connection whose request head has not ended.
    pub(crate) fn handshake(&mut self, slot: u32, bytes: &mut [u8]) {
        let Some(cold) = self.cold_if_any(slot).filter(|cold| !cold.head.is_empty()) else {
            if let Some(scan) = self.head(slot, bytes, HeadScan::default()) {
                self.keep_head(slot, bytes.to_vec(), scan);
            }
            return;
        };
        let mut head = std::mem::take(&mut cold.head);
        let scan = std::mem::take(&mut cold.head_scan);
        head.extend_from_slice(bytes);
        if let Some(scan) = self.head(slot, &mut head, scan) {
            self.keep_head(slot, head, scan);
        }
        self.release_cold(slot);
    }

    fn keep_head(&mut self, slot: u32, head: Vec<u8>, scan: HeadScan) {
        if let Some(cold) = self.cold(slot) {
            cold.head = head;
            cold.head_scan = scan;
        }
    }

    /// Returns how far the head was looked at if it is not whole.
    fn head(&mut self, slot: u32, bytes: &mut [u8], mut scan: HeadScan) -> Option<HeadScan> {
        match self.route(slot, bytes, &mut scan) {
            Ok(None) => return Some(scan),
            Ok(Some(Route::ControlPlane)) => self.hand_over(slot, bytes),
            Ok(Some(Route::Upgraded { protobuf, native_ping, response, head_length })) => {
                self.upgrade(slot, protobuf, native_ping, &response);
                let rest = bytes.get_mut(head_length..).unwrap_or_default();
                if !rest.is_empty() {
                    self.frames(slot, rest);
                }
            }
            Err(reject) => self.reject(slot, reject),
        }
        None
    }

    /// Decides where the request goes, `None` while its head is not whole.
    fn route(&mut self, slot: u32, bytes: &[u8], scan: &mut HeadScan) -> Result<Option<Route>, Reject> {
        let http = &self.common.settings.http;
        let limits = HeadLimits { head: http.head_size_limit, ..HeadLimits::default() };
        let Some(head) = parse_head(bytes, scan, &limits)? else { return Ok(None) };
        if head.path() != http.websocket_path {
            return if http.hand_over { Ok(Some(Route::ControlPlane)) } else { Err(Reject::NotFound) };
        }
        if !self.is_origin_allowed(&head) {
            self.metrics.refuse(Refusal::Origin);
            return Err(Reject::Forbidden);
        }
        let upgrade = check_upgrade(&head)?;
        let source = self.connections.0.get(slot as usize).map_or(0, |connection| connection.source);
        if let Err(refusal) = self.admits(source) {
            self.metrics.refuse(refusal);
            return Err(Reject::Unavailable { retry_after: retry_after(refusal) });
        }
        let mut response = Vec::with_capacity(192);
        upgrade.write_response(&mut response);
        let (protobuf, native_ping) = (upgrade.protobuf, upgrade.native_ping);
        Ok(Some(Route::Upgraded { protobuf, native_ping, response, head_length: head.length() }))
    }

    /// Gives the socket to the control plane at the end of the turn; what it holds by then is read there.
    fn hand_over(&mut self, slot: u32, bytes: &[u8]) {
        if let Some(connection) = self.connection(slot) {
            connection.set(flag::BLOCKED, true);
        }
        self.handed.push((slot, bytes.to_vec()));
    }

    fn is_origin_allowed(&self, head: &RequestHead<'_>) -> bool {
        let rule = match &self.common.settings.http.allowed_origins {
            OriginPolicy::Any => OriginRule::Any,
            OriginPolicy::Patterns(patterns) => OriginRule::Patterns(patterns),
        };
        origin_allowed(head.origin(), rule)
    }

    fn upgrade(&mut self, slot: u32, protobuf: bool, native_ping: bool, response: &[u8]) {
        let (now, client) = (self.now.tick, &self.common.settings.client);
        let longest = ticks_of(client.handshake_timeout.min(client.stale_close_delay));
        let Some(connection) = self.connection(slot) else { return };
        // A request older than its deadline was waiting for us: that time is not the client's.
        connection.ping = connection.ping.max(Tick(now.0.saturating_sub(longest)));
        connection.phase = Phase::Upgraded;
        connection.set(flag::PROTOBUF, protobuf);
        connection.set(flag::NATIVE_PING, native_ping);
        self.note_upgraded(slot);
        self.output(slot, |outbox, encoding| outbox.raw(encoding, response));
        self.arm(slot);
    }

    /// Answers with an HTTP status and closes.
    pub(crate) fn reject(&mut self, slot: u32, reject: Reject) {
        match reject {
            Reject::Forbidden | Reject::Unavailable { .. } => {}
            Reject::NotFound => self.metrics.refuse(Refusal::NotFound),
            _ => self.metrics.refuse(Refusal::BadRequest),
        }
        let mut response = Vec::with_capacity(192);
        reject.write(&mut response);
        self.last_output(slot, |outbox, encoding| outbox.raw(encoding, &response));
        self.depart(slot, Farewell::Lost);
    }
}

/// Seconds after which it is worth trying again.
fn retry_after(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::Memory => 10,
        _ => 1,
    }
}
