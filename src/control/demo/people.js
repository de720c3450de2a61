// Who of the people on the page is online, away or offline: one subscription to `presence:<user>` each.

const NAMESPACE = "presence";
/** Below the limit of subscriptions of one connection, with room for the chat. */
const FOLLOWED_MAX = 100;
const MINUTE_S = 60;

/** Keeps the states of the users it is told to follow; `changed` is called after each change. */
export class People {
  #client;
  #changed;
  #followed = new Map();

  constructor(client, changed) {
    this.#client = client;
    this.#changed = changed;
    // "3 min ago" grows old.
    setInterval(() => { if (!document.hidden && this.#followed.size > 0) changed(); }, MINUTE_S * 1000);
  }

  /** Follows exactly these users. */
  follow(users) {
    const wanted = new Set([...users].slice(0, FOLLOWED_MAX));
    for (const [user, { subscription }] of this.#followed) {
      if (wanted.has(user)) continue;
      this.#followed.delete(user);
      subscription.unsubscribe();
    }
    for (const user of wanted) {
      if (!this.#followed.has(user)) this.#start(user);
    }
  }

  /** `{ state, text }`; the state is empty while it is not known. */
  of(user) {
    const { state = "", lastSeen } = this.#followed.get(user) ?? {};
    const seen = state === "offline" && lastSeen ? `, last seen ${ago(lastSeen)}` : "";
    return { state, text: state + seen };
  }

  #start(user) {
    const entry = { subscription: null };
    this.#followed.set(user, entry);
    entry.subscription = this.#client.subscribe(`${NAMESPACE}:${user}`, {
      publication: ({ data }) => {
        if (this.#followed.get(user) !== entry) return;
        [entry.state, entry.lastSeen] = [data.state, data.last_seen];
        this.#changed();
      },
    });
  }
}

function ago(unixSeconds) {
  const seconds = Math.max(0, Date.now() / 1000 - unixSeconds);
  if (seconds < MINUTE_S) return "just now";
  const minutes = Math.floor(seconds / MINUTE_S);
  return minutes < 60 ? `${minutes} min ago` : `${Math.floor(minutes / 60)} h ago`;
}
