// What all scenarios share: clients in both encodings, payloads, awaited events, tokens and the server API.
//
// Every client that `connect` makes is disconnected when its test ends, so that a failing test leaves nothing behind.

import { Centrifuge as JsonClient } from 'centrifuge';
import { Centrifuge as ProtobufClient } from 'centrifuge/build/protobuf';
import { SignJWT } from 'jose';
import { randomUUID } from 'node:crypto';
import WebSocket from 'ws';

export const ADDRESS = process.env.MILLPOND_ADDRESS;
export const ENDPOINT = `ws://${ADDRESS}/connection/websocket`;
export const API_KEY = 'test-api-key';

// How long an event may take: far beyond what a loaded machine needs, below the runner's patience.
const EVENT_DEADLINE_MS = 15000;

export const ENCODINGS = ['json', 'protobuf'];

// A WebSocket that remembers its instances, so that a test can cut the connection under the client.
export class CuttableWebSocket extends WebSocket {
  static instances = [];

  constructor(...args) {
    super(...args);
    CuttableWebSocket.instances.push(this);
  }

  static cutAll() {
    for (const instance of CuttableWebSocket.instances.splice(0)) {
      instance.terminate();
    }
  }
}

// A client that is not connected yet.
export function newClient(test, encoding, options = {}) {
  const Client = encoding === 'protobuf' ? ProtobufClient : JsonClient;
  const client = new Client(ENDPOINT, { websocket: WebSocket, minReconnectDelay: 50, maxReconnectDelay: 500, ...options });
  test.after(() => client.disconnect());
  return client;
}

// A connected client.
export async function connect(test, encoding, options = {}) {
  const client = newClient(test, encoding, options);
  client.connect();
  await client.ready(EVENT_DEADLINE_MS);
  return client;
}

// A subscription that is subscribed, with everything it receives in `received`.
export async function subscribe(client, channel, options = {}) {
  const subscription = client.newSubscription(channel, options);
  const received = collect(subscription, 'publication');
  subscription.subscribe();
  await subscription.ready(EVENT_DEADLINE_MS);
  return { subscription, received };
}

// A payload as the encoding wants it: a value, or the bytes of its JSON.
export function payload(encoding, value) {
  return encoding === 'protobuf' ? new TextEncoder().encode(JSON.stringify(value)) : value;
}

// The value of a payload that arrived.
export function valueOf(encoding, data) {
  return encoding === 'protobuf' ? JSON.parse(new TextDecoder().decode(data)) : data;
}

// The next event of that name, or the first for which `wanted` holds.
export function event(emitter, name, wanted = () => true) {
  return new Promise((resolve, reject) => {
    const deadline = setTimeout(() => {
      emitter.off(name, listener);
      reject(new Error(`no such '${name}' event within ${EVENT_DEADLINE_MS} ms`));
    }, EVENT_DEADLINE_MS);
    function listener(context) {
      if (wanted(context)) {
        clearTimeout(deadline);
        emitter.off(name, listener);
        resolve(context);
      }
    }
    emitter.on(name, listener);
  });
}

// A queue of events of that name: `list` holds all, `count(n)` waits until there are n.
export function collect(emitter, name) {
  const list = [];
  emitter.on(name, (context) => list.push(context));
  return {
    list,
    async count(wanted) {
      await until(() => list.length >= wanted, `${wanted} '${name}' events, there were ${list.length}`);
      return list;
    },
  };
}

// Waits until the condition holds.
export async function until(condition, what) {
  const start = Date.now();
  while (!(await condition())) {
    if (Date.now() - start > EVENT_DEADLINE_MS) {
      throw new Error(`within ${EVENT_DEADLINE_MS} ms there were not: ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

// A rejected promise's error; a promise that is fulfilled is a failure.
export async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('the call succeeded and should have failed');
}

// A channel that no other test uses.
export function fresh(prefix) {
  return `${prefix}_${randomUUID().replaceAll('-', '')}`;
}

export function nowSeconds() {
  return Math.floor(Date.now() / 1000);
}

// A token as a backend would make it.
export function token(claims, secret = 'secret') {
  return new SignJWT(claims).setProtectedHeader({ alg: 'HS256', typ: 'JWT' }).sign(new TextEncoder().encode(secret));
}

// Calls the server API and answers the parsed reply together with the HTTP status.
export async function callApi(method, params, { key = API_KEY, headers = {} } = {}) {
  const auth = key === null ? {} : { 'X-API-Key': key };
  const response = await fetch(`http://${ADDRESS}/api/${method}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...auth, ...headers },
    body: typeof params === 'string' ? params : JSON.stringify(params),
  });
  const text = await response.text();
  let reply = null;
  try {
    reply = JSON.parse(text);
  } catch {
    // Refusals carry plain text.
  }
  return { status: response.status, reply, text };
}

// Calls the server API, which must succeed.
export async function api(method, params) {
  const { status, reply, text } = await callApi(method, params);
  if (status !== 200 || reply?.result === undefined) {
    throw new Error(`/api/${method} answered ${status}: ${text}`);
  }
  return reply.result;
}
