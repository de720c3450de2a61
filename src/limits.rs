//! Every bound of the data plane that is not a setting, each with its reason.

/// Deadlines at homes handled per turn; the rest comes next turn, so that a burst does not starve the sockets (R17).
pub const EXPIRIES_PER_TURN: usize = 4096;

/// Timers of connections that expire in a turn: most of them send a ping, so 256 are about 1.5 ms, which is what a
/// publication waits for them at most.
pub const TIMERS_PER_TURN: usize = 256;

/// How long a user is not offline yet whose last session closed without a code (3 s): where that was a network that came
/// back, the next session is there by then.
pub const UNSAID_TICKS: u32 = 30;

/// A gap between two turns longer than this (2 s) is our own stall: pong deadlines start anew (C02, C03).
pub const STALL_TICKS: u32 = 20;

/// For so long (30 s) after a session took the place of a lost one, its subscriptions are its library's doing: libraries
/// try again for 20 s at most between two attempts.
pub const RESUBSCRIBE_TICKS: u32 = 300;

/// When a deadline for input is looked at again that was put off because a command of the connection waits for another
/// shard (1 s).
pub const RECHECK_TICKS: u32 = 10;

/// How long after such a deadline a connection whose command still has no answer is closed all the same (60 s): a store
/// whose disk hangs would hold the descriptors of everybody who comes and gives up.
pub const BLOCKED_TICKS: u32 = 600;

/// Writes of sweeps per turn: about 1.5 ms of kernel time, then sockets are read again.
pub const SWEEP_WRITES_PER_TURN: usize = 256;

/// Frames that wait apart leave in one write of so many bytes; with more of it waiting, output is not gathered longer.
pub const GATHER_BYTES: usize = 16 * 1024;

/// Channels with at most so many subscribers here are served at once, joined with whatever else a connection gets
/// this turn, instead of by a sweep.
pub const FEW_SUBSCRIBERS: usize = 8;

/// Channels with at most so many subscribers here come first in a turn, whole: a quarter of a turn's writes.
pub const SMALL_SUBSCRIBERS: usize = 64;

/// Writes of joins, leaves and counts a turn, beside those of publications: about 40 µs, which is what a publication
/// to another channel waits for them at most.
pub const ANNOUNCEMENT_WRITES_PER_TURN: usize = 8;

/// Subscribers looked at for those writes: who is not told of joins costs a look, about 20 ns.
pub const ANNOUNCEMENT_STEPS_PER_TURN: usize = 256;

/// Channels with joins, leaves and counts under way that are looked at in a turn.
pub const ANNOUNCING_PER_TURN: usize = 64;

/// Writes of joins, leaves and counts of one channel in a millisecond, over all shards (of each at least one): a tenth
/// of a core. What comes in the meantime leaves with the same write.
pub const ANNOUNCEMENT_WRITES_PER_MS: u64 = 20;

/// Such writes that a channel which was quiet may make at once, over all shards; and on each at least.
pub const ANNOUNCEMENT_BURST: u64 = 512;
/// See [`ANNOUNCEMENT_BURST`].
pub const ANNOUNCEMENT_BURST_LEAST: u64 = 32;

/// Bytes of joins, leaves and counts under way in a channel beyond which they go out like publications, at whatever
/// cost to others: they must not fill the memory of sweeps.
pub const ANNOUNCEMENT_BACKLOG_BYTES: usize = 1024 * 1024;

const _: () = assert!(ANNOUNCEMENT_BACKLOG_BYTES < SWEEP_BACKLOG_BYTES);
const _: () =
    assert!(SMALL_SUBSCRIBERS <= SWEEP_WRITES_PER_TURN / 2, "a small channel is served in one turn");

/// Bytes of frames under way in sweeps beyond which inbound mail stays in its queue and so slows its senders.
pub const SWEEP_BACKLOG_BYTES: usize = 8 * 1024 * 1024;

/// Publications held back for a congested destination before client input is held back too.
pub const DEFERRED_PUBLICATIONS: usize = 1024;

/// Output of one connection beyond which its next commands wait until the kernel has taken it: so a frame of thousands of
/// `history` commands is answered as fast as its peer reads, and a turn holds this much and one reply of it, not all.
pub const OUTPUT_AHEAD_BYTES: usize = 64 * 1024;

/// How long a closing socket waits for the peer's FIN before RST (1 s).
pub const LINGER_TICKS: u32 = 10;

/// How long a fragmented or incomplete message may stay open (30 s, F20).
pub const ASSEMBLY_TICKS: u32 = 300;

/// WebSocket control frames one connection may send a second (P06).
pub const CONTROL_FRAMES_PER_SECOND: u8 = 20;

/// Commands over the rate that are answered with error 111; this one and every further one stops reading for a second.
pub const RATE_STRIKES_TO_PAUSE: u8 = 8;

/// Commands over the rate before disconnect 3013: reached by who goes on at full speed for about eight seconds (R15),
/// so before the pong that stands behind the flood is missed.
pub const RATE_STRIKES_TO_CLOSE: u8 = 16;

/// Commands over the rate are forgotten when none came for so long (10 s).
pub const STRIKES_TICKS: u32 = 100;

/// Outboxes smaller than this are not worth a disconnect when memory runs short.
pub const SHED_OUTBOX_LEAST: usize = 4096;

/// Longest user id in bytes.
pub const USER_ID_BYTES: usize = 1000;

/// Connections of a shard that may be short of their connect command, as a share of its capacity (R02): beyond it the
/// oldest silent ones go.
pub const UNAUTHENTICATED_SHARE: u32 = 10;
/// Upgrades are refused beyond the share and this number: so many clients may be a round trip short of their connect
/// command at a time.
pub const UNAUTHENTICATED_LEAST: u32 = 4096;

/// How long a client may take for its next word before it is taken for a silent one (0.5 s), where there are too many.
pub const NEWCOMER_TICKS: u32 = 5;
/// The same for a request while nine tenths of all places are taken (0.1 to 0.2 s).
pub const NEWCOMER_TICKS_FULL: u32 = 2;

/// Silent connections that go in one turn; more than are accepted in one.
pub const EVICTIONS_PER_TURN: usize = 64;

/// Presence requests a home gathers at a time; beyond: error 111.
pub const GATHERS: usize = 4096;

/// Time in which a home looks at each of its records once for what has expired (60 s), and while memory is short (5 s).
pub const HOUSEKEEPING_TICKS: u32 = 600;
/// See [`HOUSEKEEPING_TICKS`].
pub const HASTY_HOUSEKEEPING_TICKS: u32 = 50;

/// Records a home looks at per turn at least.
pub const HOUSEKEEPING_LEAST: usize = 8;
/// Records a home looks at per turn at most, and results of publications that it forgets: less than 2 ms.
pub const HOUSEKEEPING_MOST: usize = 8192;

/// Records looked at per turn for the gauges of memory: 0.1 to 0.25 ms.
pub const SURVEYED_PER_TURN: usize = 1024;

/// Results of sends with an idempotency key that the store remembers at most (about 64 bytes each): five minutes of 3,300
/// messages a second.
pub const IDEMPOTENT_SENDS: usize = 1_000_000;

/// Newest messages of a user among which the store looks for idempotency keys of before its start: about 4 ms.
pub const LOOKED_BACK: usize = 4096;

/// Keys of before its start that the store remembers, of users with many messages (48 bytes each).
pub const REMEMBERED_KEYS: usize = 100_000;

/// Results of publications with an idempotency key that a shard remembers at most (about 64 bytes each).
pub const IDEMPOTENT_RESULTS: usize = 100_000;

/// Answers of a shard to one `channels` call at most.
pub const CHANNELS_PAGE: u32 = 10_000;

/// Channels that a shard names at most: one more than are shown tells that more follow.
pub const CHANNELS_ASKED: u32 = CHANNELS_PAGE + 1;

/// Users one `presence.get` of a client may ask for; beyond: error 106. A reply stays below 64 KiB or so.
pub const USERS_PER_LOOK: usize = 100;

/// Members on one page of `presence` at most: 10,000 take about 1 MB of JSON and 5 ms.
pub const PRESENCE_PAGE: u32 = 10_000;

/// Sessions of one user that a shard lists for one `connections` call at most.
pub const CONNECTIONS_LISTED: usize = 1000;

/// Users one `user_presence` call of the server API may ask for.
pub const USERS_PER_API_LOOK: usize = 1000;

/// Events for backends that wait on a shard for the store; beyond, they are counted and dropped. The store takes them every
/// turn, so this is what a flood of one turn may be: every connection of a turn's share with a few subscriptions.
pub const EVENTS_WAITING: usize = 16_384;

/// Users one `send` of the server API may name: their messages go to the log as one batch, and are answered together.
pub const USERS_PER_SEND: usize = 1000;

/// Bytes that one `send` may store, over all its users: it must be on the disk before the answer is due (5 s), also on a
/// disk that writes 20 MB/s.
pub const BYTES_PER_SEND: usize = 64 * 1024 * 1024;

/// Bytes of a stored message beside payload, tags and user: its id, and what the log needs to find the parts again.
pub const MESSAGE_OVERHEAD_BYTES: usize = 4096;

/// Longest name of a device in bytes, in the data of a connect command.
pub const DEVICE_BYTES: usize = 64;

/// How long a session waits before it asks again for a page that the log could not read, and as much again at random.
pub const UNREADABLE_TICKS: u32 = 50;

/// Times that the wait for an acknowledgement doubles at most.
pub const BACKOFF_DOUBLINGS: u8 = 6;

/// Bytes of messages on one page of a replay at most, however long the queue of a client may be.
pub const MAILBOX_PAGE_BYTES: usize = 256 * 1024;

/// Messages in the answer to one `mailbox_list` call at most, and bytes of their data.
pub const MAILBOX_LISTED: u32 = 1000;
/// See [`MAILBOX_LISTED`].
pub const MAILBOX_LISTED_BYTES: usize = 4 * 1024 * 1024;

/// Readers of mailboxes whose deliveries are counted at a time; of those beyond, messages are sent again without end.
pub const REDELIVERED_READERS: usize = 100_000;

/// Deliveries are forgotten if none followed for so long (one hour) and room is needed.
pub const REDELIVERY_MEMORY_TICKS: u32 = 36_000;

/// Places that the table of gathered acknowledgements keeps while it is empty.
pub const KEPT_ACKS: usize = 64;

/// Bytes of records in one answer about a durable history at most: the server API reads on from the last offset.
pub const HISTORY_PAGE_BYTES: usize = 16 * 1024 * 1024;

/// Long durable histories of which the store remembers the way, at most 160 KB each.
pub const HISTORY_TRAILS: usize = 64;

/// Publications in a history from which on the way is worth remembering.
pub const LONG_HISTORY: u64 = 2048;
