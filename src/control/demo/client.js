// A small client of the JSON protocol over WebSocket: connect, subscribe with recovery, publish, history, presence,
// pings, token refresh, and a reconnect with exponential backoff and full jitter. No dependencies.

const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 20_000;
const REQUEST_TIMEOUT_MS = 5_000;
/** How much later than announced a ping may come before the connection counts as dead. */
const PING_GRACE_MS = 10_000;
const TIMER_MAX_MS = 2 ** 31 - 1;
const ERROR_TOKEN_EXPIRED = 109;
const UNSUBSCRIBE_RETRY_FROM = 2500;

/** An error reply, or one of our own with a code below 100. */
export class ProtocolError extends Error {
  constructor({ code, message, temporary = false }) {
    super(message);
    this.code = code;
    this.temporary = temporary || code < 100;
  }
}

/** Full jitter: anywhere between nothing and the exponential bound, so that a crowd does not return at once. */
export function backoff(attempt, random = Math.random) {
  return random() * Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(attempt, 16));
}

/** Codes after which a client must not come back by itself. */
function isTerminal(code) {
  return (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
}

/**
 * Events: `state` (detail: { state: "connecting" | "connected" | "waiting" | "stopped", retryAt?, reason? }), `personal`
 * (detail: { channel, publication, replayed }), a publication of a channel that the server subscribed us to; `replayed`:
 * it was made while we were not connected.
 * `getToken` is asked before every connect that has no valid token, and before a token expires.
 */
export class Client extends EventTarget {
  #url;
  #getToken;
  #token = null;
  #socket = null;
  #pending = new Map();
  #subscriptions = new Map();
  /** Positions in the channels that the server subscribed us to. */
  #personal = new Map();
  #nextId = 1;
  #attempt = 0;
  #wanted = false;
  #ready = false;
  #timers = { retry: 0, alive: 0, refresh: 0 };
  #pingMs = 0;
  #sendPong = false;

  constructor({ url, getToken }) {
    super();
    this.#url = url;
    this.#getToken = getToken;
  }

  get connected() {
    return this.#ready;
  }

  connect() {
    this.#wanted = true;
    clearTimeout(this.#timers.retry);
    if (!this.#socket) this.#open();
  }

  /** Drops the connection, if any, and starts over with a new token. */
  reconnect() {
    this.#token = null;
    this.#attempt = 0;
    this.#drop("reconnecting");
    this.connect();
  }

  /** A subscription is kept over reconnects until its `unsubscribe`. */
  subscribe(channel, handlers) {
    const subscription = new Subscription(this, channel, handlers);
    this.#subscriptions.set(channel, subscription);
    if (this.#ready) this.#start(subscription);
    return subscription;
  }

  /** Sends one command; resolves with the member of the reply of the same name. */
  request(method, params) {
    if (!this.#ready && method !== "connect") {
      return Promise.reject(new ProtocolError({ code: 2, message: "not connected" }));
    }
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new ProtocolError({ code: 1, message: "timeout" }));
      }, REQUEST_TIMEOUT_MS);
      this.#pending.set(id, { method, resolve, reject, timer });
      this.#socket.send(JSON.stringify({ id, [method]: params }));
    });
  }

  forget(subscription) {
    if (this.#subscriptions.get(subscription.channel) !== subscription) return;
    this.#subscriptions.delete(subscription.channel);
    if (this.#ready) this.request("unsubscribe", { channel: subscription.channel }).catch(() => this.#drop("timeout"));
  }

  async #open() {
    this.#announce({ state: "connecting" });
    const turn = (this.#socket = {});
    try {
      this.#token ??= await this.#getToken();
    } catch {
      if (this.#socket === turn) this.#lost(turn, { code: 0, reason: "no token" });
      return;
    }
    if (this.#socket !== turn || !this.#wanted) return;
    const socket = (this.#socket = new WebSocket(this.#url));
    socket.onopen = () => this.#hello(socket);
    socket.onmessage = ({ data }) => this.#receive(socket, data);
    socket.onclose = (event) => this.#lost(socket, event);
  }

  async #hello(socket) {
    try {
      const subs = {};
      for (const [channel, position] of this.#personal) subs[channel] = { recover: true, ...position };
      const result = await this.request("connect", { token: this.#token, name: "demo", subs });
      if (this.#socket === socket) this.#welcome(result);
    } catch (error) {
      if (this.#socket !== socket) return;
      this.#token = null;
      if (!error.temporary && error.code !== ERROR_TOKEN_EXPIRED) this.#wanted = false;
      this.#drop(error.message);
    }
  }

  #welcome(result) {
    this.#attempt = 0;
    this.#ready = true;
    this.#pingMs = (result.ping ?? 0) * 1000;
    this.#sendPong = result.pong === true;
    this.#keepAlive();
    this.#scheduleRefresh(result);
    this.#announce({ state: "connected" });
    for (const subscription of this.#subscriptions.values()) this.#start(subscription);
    for (const [channel, sub] of Object.entries(result.subs ?? {})) this.#welcomePersonal(channel, sub);
  }

  #welcomePersonal(channel, { offset = 0, epoch = "", publications = [] }) {
    this.#personal.set(channel, { offset, epoch });
    for (const publication of publications) this.#announcePersonal(channel, publication, true);
  }

  #announcePersonal(channel, publication, replayed) {
    if (publication.offset) this.#personal.get(channel).offset = publication.offset;
    this.dispatchEvent(new CustomEvent("personal", { detail: { channel, publication, replayed } }));
  }

  #receive(socket, data) {
    if (this.#socket !== socket) return;
    this.#keepAlive();
    for (const line of data.split("\n")) {
      if (line === "") continue;
      const reply = JSON.parse(line);
      if (reply.id) this.#settle(reply);
      else if (reply.push) this.#push(reply.push);
      else if (this.#sendPong) socket.send("{}");
    }
  }

  #settle(reply) {
    const waiting = this.#pending.get(reply.id);
    if (!waiting) return;
    this.#pending.delete(reply.id);
    clearTimeout(waiting.timer);
    if (reply.error) waiting.reject(new ProtocolError(reply.error));
    else waiting.resolve(reply[waiting.method] ?? {});
  }

  #push(push) {
    const subscription = this.#subscriptions.get(push.channel);
    if (!subscription) {
      if (push.pub && this.#personal.has(push.channel)) this.#announcePersonal(push.channel, push.pub, false);
      return;
    }
    if (push.pub) subscription.publication(push.pub);
    else if (push.join) subscription.handlers.join?.(push.join.info);
    else if (push.leave) subscription.handlers.leave?.(push.leave.info);
    else if (push.unsubscribe) this.#unsubscribed(subscription, push.unsubscribe);
  }

  #unsubscribed(subscription, { code, reason }) {
    if (code >= UNSUBSCRIBE_RETRY_FROM) {
      this.#start(subscription);
    } else {
      this.#subscriptions.delete(subscription.channel);
      subscription.handlers.error?.(new ProtocolError({ code, message: reason }));
    }
  }

  async #start(subscription, attempt = 0) {
    const socket = this.#socket;
    try {
      const result = await this.request("subscribe", subscription.wish());
      if (this.#subscriptions.get(subscription.channel) === subscription) subscription.started(result);
    } catch (error) {
      if (this.#socket !== socket || this.#subscriptions.get(subscription.channel) !== subscription) return;
      if (error.code === 1) this.#drop("timeout");
      else if (error.temporary) setTimeout(() => this.#start(subscription, attempt + 1), backoff(attempt));
      else {
        this.#subscriptions.delete(subscription.channel);
        subscription.handlers.error?.(error);
      }
    }
  }

  #keepAlive() {
    clearTimeout(this.#timers.alive);
    if (this.#pingMs > 0) {
      this.#timers.alive = setTimeout(() => this.#drop("no ping"), this.#pingMs + PING_GRACE_MS);
    }
  }

  #scheduleRefresh({ expires, ttl }) {
    clearTimeout(this.#timers.refresh);
    if (!expires) return;
    this.#timers.refresh = setTimeout(() => this.#refresh(), Math.min(ttl * 1000, TIMER_MAX_MS));
  }

  async #refresh() {
    const socket = this.#socket;
    try {
      this.#token = await this.#getToken();
      const result = await this.request("refresh", { token: this.#token });
      this.#scheduleRefresh(result);
    } catch {
      if (this.#socket === socket) this.reconnect();
    }
  }

  /** Closes by ourselves: browsers report the close only after the handshake, which a dead peer never ends. */
  #drop(reason) {
    const socket = this.#socket;
    if (!socket) return;
    if (socket.close) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    this.#lost(socket, { code: 0, reason });
  }

  #lost(socket, { code, reason }) {
    if (this.#socket !== socket) return;
    this.#socket = null;
    this.#ready = false;
    clearTimeout(this.#timers.alive);
    clearTimeout(this.#timers.refresh);
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(new ProtocolError({ code: 2, message: "connection lost" }));
    }
    this.#pending.clear();
    if (isTerminal(code)) this.#wanted = false;
    if (!this.#wanted) {
      this.#announce({ state: "stopped", reason });
      return;
    }
    const delay = backoff(this.#attempt++);
    clearTimeout(this.#timers.retry);
    this.#timers.retry = setTimeout(() => this.connect(), delay);
    this.#announce({ state: "waiting", retryAt: Date.now() + delay, reason });
  }

  #announce(detail) {
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }
}

/**
 * Handlers: `subscribed({ recovered })` (not recovered: what was shown before may have gaps), `publication(pub)`,
 * `join(info)`, `leave(info)`, `error(error)`.
 */
class Subscription {
  #client;
  #position = null;

  constructor(client, channel, handlers) {
    this.#client = client;
    this.channel = channel;
    this.handlers = handlers;
  }

  /** The subscribe command: from where we were, if we were. */
  wish() {
    return this.#position ? { channel: this.channel, recover: true, ...this.#position } : { channel: this.channel };
  }

  started(result) {
    const recovered = result.recovered === true;
    if (!recovered) this.#position = { offset: result.offset ?? 0, epoch: result.epoch ?? "" };
    this.handlers.subscribed?.({ recovered });
    for (const publication of result.publications ?? []) this.publication(publication);
  }

  publication(publication) {
    if (publication.offset && this.#position) this.#position.offset = publication.offset;
    this.handlers.publication?.(publication);
  }

  publish(data) {
    return this.#client.request("publish", { channel: this.channel, data });
  }

  /** Newest first. */
  history(limit) {
    return this.#client.request("history", { channel: this.channel, limit, reverse: true });
  }

  presence() {
    return this.#client.request("presence", { channel: this.channel });
  }

  unsubscribe() {
    this.#client.forget(this);
  }
}
