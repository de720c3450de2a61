//! Bookkeeping of a connection's subscriptions: two inline, the rest in the cold part, each linked both ways with the
//! local channel record.

use crate::base::tick::Tick;
use crate::hub::cold::SubscriptionExtra;
use crate::hub::connection::{INLINE_SUBSCRIPTIONS, NONE, Phase, Subscription, sub};
use crate::hub::locals::ChannelRef;
use crate::hub::shard::Shard;

impl Shard {
    /// Handle and flags of the connection's subscription to `channel`.
    pub(crate) fn find_subscription(&self, slot: u32, channel: &str) -> Option<(u32, u8)> {
        let handle = self.locals.find_channel(self.locals.hash(channel), channel)?;
        Some((handle, self.subscription_flags(slot, handle)?))
    }

    /// True if the subscription exists, its home granted it and the client was told.
    pub(crate) fn is_subscribed(&self, slot: u32, channel: &str) -> bool {
        self.find_subscription(slot, channel).is_some_and(|(_, flags)| self.stands(slot, flags))
    }

    /// True for a subscription with these flags if its home granted it and the client was told: while a connect command
    /// waits for some homes, others may have granted already.
    pub(crate) fn stands(&self, slot: u32, flags: u8) -> bool {
        let connection = self.connections.0.get(slot as usize);
        flags & sub::PENDING == 0 && connection.is_some_and(|connection| connection.phase == Phase::Live)
    }

    /// From here on publications of the channel are for this subscriber too: its home granted the subscription.
    pub(crate) fn enlist(&mut self, slot: u32, handle: u32) {
        let Some(flags) = self.subscription_flags(slot, handle).filter(|flags| flags & sub::PENDING != 0)
        else {
            return;
        };
        self.set_subscription_flags(slot, handle, flags & !sub::PENDING);
        let mut place = NONE;
        if let ChannelRef::Many(index) = self.locals.channel(handle)
            && let Some(channel) = self.locals.many(index)
        {
            place = channel.add(slot);
        }
        self.with_subscription(slot, handle, |subscription, _| subscription.index = place);
    }

    /// Flags of the connection's subscription to the channel behind `handle`.
    pub(crate) fn subscription_flags(&self, slot: u32, handle: u32) -> Option<u8> {
        let connection = self.connections.0.get(slot as usize)?;
        for at in 0..INLINE_SUBSCRIPTIONS {
            if connection.subscriptions[at].channel == handle {
                return Some(connection.subscription_flags[at]);
            }
        }
        let more = &self.cold.get(connection.cold)?.more;
        more.iter().find(|(subscription, _)| subscription.channel == handle).map(|(_, flags)| *flags)
    }

    pub(crate) fn set_subscription_flags(&mut self, slot: u32, handle: u32, flags: u8) {
        self.with_subscription(slot, handle, |_, stored| *stored = flags);
    }

    pub(crate) fn set_subscription_place(&mut self, slot: u32, handle: u32, place: u32) {
        self.with_subscription(slot, handle, |subscription, _| subscription.index = place);
    }

    /// Subscriptions of a connection, pending ones included.
    pub(crate) fn subscription_count(&self, slot: u32) -> usize {
        self.subscription_handles(slot).len()
    }

    /// Handles of all channels the connection is subscribed to.
    pub(crate) fn subscription_handles(&self, slot: u32) -> Vec<u32> {
        let Some(connection) = self.connections.0.get(slot as usize) else { return Vec::new() };
        let inline = connection.subscriptions.iter();
        let more = self.cold.get(connection.cold).map(|cold| cold.more.as_slice()).unwrap_or_default();
        inline
            .chain(more.iter().map(|(subscription, _)| subscription))
            .filter(|subscription| subscription.channel != NONE)
            .map(|subscription| subscription.channel)
            .collect()
    }

    /// Handle of the connection's subscription to `channel` that waits for the grant with this number.
    pub(crate) fn pending_subscription(&mut self, slot: u32, channel: &str, number: u32) -> Option<u32> {
        let (handle, flags) = self.find_subscription(slot, channel)?;
        let mut awaited = None;
        self.with_subscription(slot, handle, |subscription, _| awaited = Some(subscription.index));
        (flags & sub::PENDING != 0 && awaited == Some(number)).then_some(handle)
    }

    /// Links a new subscription, not yet in the channel's list of those who get publications: it is pending until the
    /// grant with this number. Returns its handle.
    pub(crate) fn join_local(&mut self, slot: u32, hash: u64, channel: &str, flags: u8, number: u32) -> u32 {
        let (handle, promoted) = self.locals.join(hash, channel, slot);
        if let Some((first, former)) = promoted {
            self.promote(first, former, handle);
        }
        let subscription = Subscription { channel: handle, index: number };
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return handle };
        if let Some(at) = connection.subscriptions.iter().position(|place| place.channel == NONE) {
            connection.subscriptions[at] = subscription;
            connection.subscription_flags[at] = flags;
        } else {
            self.cold.obtain(&mut connection.cold).more.push((subscription, flags));
        }
        handle
    }

    /// Unlinks a subscription.
    pub(crate) fn leave_local(&mut self, slot: u32, handle: u32) {
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        let mut found = None;
        if let Some(at) = connection.subscriptions.iter().position(|place| place.channel == handle) {
            found = Some((connection.subscriptions[at], connection.subscription_flags[at]));
            connection.subscriptions[at] = Subscription::EMPTY;
        }
        if let Some(cold) = self.cold.get_mut(connection.cold) {
            cold.extras.retain(|extra| extra.channel != handle);
            if let Some(at) = cold.more.iter().position(|(place, _)| place.channel == handle) {
                found = Some(cold.more.swap_remove(at));
            }
            if cold.more.is_empty() {
                cold.more = Vec::new();
            }
        }
        if let Some((subscription, flags)) = found {
            self.leave_channel(handle, if flags & sub::PENDING == 0 { subscription.index } else { NONE });
        }
        self.release_cold(slot);
    }

    /// Info and expiry of a subscription.
    pub(crate) fn set_extra(
        &mut self,
        slot: u32,
        handle: u32,
        info: Option<bytes::Bytes>,
        expires: Option<Tick>,
    ) {
        let Some(cold) = self.cold(slot) else { return };
        match cold.extras.iter_mut().find(|extra| extra.channel == handle) {
            Some(extra) => {
                extra.expires = expires;
                if info.is_some() {
                    extra.info = info;
                }
            }
            None => cold.extras.push(SubscriptionExtra { channel: handle, info, expires }),
        }
        cold.extras.retain(|extra| extra.info.is_some() || extra.expires.is_some());
        self.release_cold(slot);
        self.arm(slot);
    }

    fn with_subscription(&mut self, slot: u32, handle: u32, change: impl FnOnce(&mut Subscription, &mut u8)) {
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        if let Some(at) = connection.subscriptions.iter().position(|place| place.channel == handle) {
            return change(&mut connection.subscriptions[at], &mut connection.subscription_flags[at]);
        }
        let Some(cold) = self.cold.get_mut(connection.cold) else { return };
        if let Some((subscription, flags)) = cold.more.iter_mut().find(|(place, _)| place.channel == handle) {
            change(subscription, flags);
        }
    }

    /// A channel got its second subscriber: the first one's link now leads to the new record.
    fn promote(&mut self, first: u32, former: u32, handle: u32) {
        let Some(flags) = self.subscription_flags(first, former) else { return };
        let mut place = None;
        if flags & sub::PENDING == 0
            && let ChannelRef::Many(index) = self.locals.channel(handle)
            && let Some(channel) = self.locals.many(index)
        {
            place = Some(channel.add(first));
        }
        self.with_subscription(first, former, |subscription, _| {
            *subscription = Subscription { channel: handle, index: place.unwrap_or(subscription.index) };
        });
        if let Some(cold) = self.cold_if_any(first) {
            for extra in cold.extras.iter_mut().filter(|extra| extra.channel == former) {
                extra.channel = handle;
            }
        }
    }

    fn leave_channel(&mut self, handle: u32, place: u32) {
        if let ChannelRef::Many(index) = self.locals.channel(handle)
            && let Some(channel) = self.locals.many(index)
        {
            let moved = if place == NONE { None } else { channel.remove(place) };
            let wants_compaction = channel.wants_compaction() && channel.references > 1;
            if let Some(slot) = moved {
                self.set_subscription_place(slot, handle, place);
            }
            if wants_compaction {
                self.compact(index, handle);
            }
        }
        self.locals.leave(handle);
    }

    fn compact(&mut self, index: u32, handle: u32) {
        let mut moved = Vec::new();
        if let Some(channel) = self.locals.many(index) {
            channel.compact(|slot, place| moved.push((slot, place)));
        }
        for (slot, place) in moved {
            self.set_subscription_place(slot, handle, place);
        }
    }
}
