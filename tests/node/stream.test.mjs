// Connections, subscriptions, publications, presence and history, in both encodings. Server profile: js_stream.json.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import WebSocket from 'ws';
import {
  ENCODINGS, ENDPOINT, api, collect, connect, event, fresh, newClient, payload, rejection, subscribe, until, valueOf,
} from './support.mjs';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

for (const encoding of ENCODINGS) {
  test(`${encoding}: a client connects, learns its id, and disconnects`, async (t) => {
    const client = newClient(t, encoding);
    const connected = event(client, 'connected');
    client.connect();
    const context = await connected;
    assert.match(context.client, UUID);
    assert.equal(context.transport, 'websocket');
    const disconnected = event(client, 'disconnected');
    client.disconnect();
    assert.equal((await disconnected).code, 0);
    assert.equal(client.state, 'disconnected');
  });

  test(`${encoding}: 100 times connect and disconnect`, async (t) => {
    const client = newClient(t, encoding);
    const ids = new Set();
    client.on('connected', (context) => ids.add(context.client));
    for (let round = 0; round < 100; round += 1) {
      client.connect();
      await client.ready(15000);
      client.disconnect();
    }
    assert.equal(ids.size, 100, 'every connection has an id of its own');
  });

  test(`${encoding}: 100 times connect and disconnect without waiting`, async (t) => {
    const client = newClient(t, encoding);
    for (let round = 0; round < 100; round += 1) {
      client.connect();
      client.disconnect();
    }
    client.connect();
    await client.ready(15000);
    assert.equal(client.state, 'connected');
  });

  test(`${encoding}: 100 times subscribe and unsubscribe, then exactly one is present`, async (t) => {
    const client = newClient(t, encoding);
    const connected = event(client, 'connected');
    client.connect();
    const { client: id } = await connected;
    const channel = fresh('loop');
    const subscription = client.newSubscription(channel);
    for (let round = 0; round < 100; round += 1) {
      subscription.subscribe();
      await subscription.ready(15000);
      subscription.unsubscribe();
    }
    subscription.subscribe();
    await subscription.ready(15000);
    const { clients } = await subscription.presence();
    assert.deepEqual(Object.keys(clients), [id]);
    assert.deepEqual(await subscription.presenceStats(), { numClients: 1, numUsers: 1 });
  });

  test(`${encoding}: 100 times subscribe and unsubscribe without waiting, then exactly one is present`, async (t) => {
    const client = await connect(t, encoding);
    const subscription = client.newSubscription(fresh('loop'));
    const errors = collect(subscription, 'error');
    for (let round = 0; round < 100; round += 1) {
      subscription.subscribe();
      subscription.unsubscribe();
    }
    subscription.subscribe();
    await subscription.ready(15000);
    assert.equal(Object.keys((await subscription.presence()).clients).length, 1);
    assert.deepEqual(errors.list, []);
  });

  test(`${encoding}: subscriptions made before connecting travel with the connect command`, async (t) => {
    const client = newClient(t, encoding);
    const subscriptions = ['a', 'b', 'c'].map((name) => client.newSubscription(fresh(name)));
    subscriptions.forEach((subscription) => subscription.subscribe());
    client.connect();
    await Promise.all(subscriptions.map((subscription) => subscription.ready(15000)));
    assert.ok(subscriptions.every((subscription) => subscription.state === 'subscribed'));
  });

  test(`${encoding}: a publication reaches every subscriber and the publisher, once and in order`, async (t) => {
    const channel = fresh('talk');
    const clients = await Promise.all([1, 2, 3].map(() => connect(t, encoding)));
    const subscribers = await Promise.all(clients.map((client) => subscribe(client, channel)));
    const values = Array.from({ length: 50 }, (_, number) => ({ number, text: 'Grüße, 世界 🌊' }));
    for (const value of values) {
      await subscribers[0].subscription.publish(payload(encoding, value));
    }
    for (const { received } of subscribers) {
      const publications = await received.count(values.length);
      assert.deepEqual(publications.map((publication) => valueOf(encoding, publication.data)), values);
      assert.deepEqual(publications.map((publication) => publication.offset), values.map((_, index) => index + 1));
      assert.ok(publications.every((publication) => publication.channel === channel));
    }
    const { info } = subscribers[1].received.list[0];
    assert.match(info.client, UUID);
    assert.equal(info.user, '');
  });

  test(`${encoding}: a client publishes without being subscribed, and the server API says where it went`, async (t) => {
    const channel = fresh('lone');
    const client = await connect(t, encoding);
    await client.publish(channel, payload(encoding, { n: 1 }));
    const { publications, offset } = await api('history', { channel, limit: -1 });
    assert.equal(offset, 1);
    assert.deepEqual(publications[0].data, { n: 1 });
  });

  test(`${encoding}: 120 subscriptions of one connection each get their own publications`, async (t) => {
    const client = await connect(t, encoding);
    const channels = Array.from({ length: 120 }, (_, index) => fresh(`many${index}`));
    const all = await Promise.all(channels.map((channel) => subscribe(client, channel)));
    await Promise.all(channels.map((channel, index) => api('publish', { channel, data: { index } })));
    for (const [index, { received }] of all.entries()) {
      const [publication] = await received.count(1);
      assert.deepEqual(valueOf(encoding, publication.data), { index });
    }
    await Promise.all(all.map(({ subscription }) => {
      const unsubscribed = event(subscription, 'unsubscribed');
      subscription.unsubscribe();
      return unsubscribed;
    }));
    assert.ok(all.every(({ received }) => received.list.length === 1));
  });

  test(`${encoding}: the 129th subscription is refused with 106`, async (t) => {
    const client = await connect(t, encoding);
    const subscriptions = Array.from({ length: 128 }, (_, index) => client.newSubscription(fresh(`limit${index}`)));
    subscriptions.forEach((subscription) => subscription.subscribe());
    await Promise.all(subscriptions.map((subscription) => subscription.ready(15000)));
    const last = client.newSubscription(fresh('limit'));
    const unsubscribed = event(last, 'unsubscribed');
    last.subscribe();
    assert.equal((await unsubscribed).code, 106);
    assert.equal(client.state, 'connected');
  });

  test(`${encoding}: presence and its numbers are exact, zero included`, async (t) => {
    const channel = fresh('present');
    const watcher = await connect(t, encoding);
    assert.deepEqual(await watcher.presence(channel), { clients: {} });
    assert.deepEqual(await watcher.presenceStats(channel), { numClients: 0, numUsers: 0 });
    const clients = await Promise.all(Array.from({ length: 5 }, () => connect(t, encoding)));
    const subscribers = await Promise.all(clients.map((client) => subscribe(client, channel)));
    const stats = async () => (await watcher.presenceStats(channel)).numClients;
    assert.equal(await stats(), 5);
    const { clients: present } = await watcher.presence(channel);
    assert.equal(Object.keys(present).length, 5);
    for (const [id, info] of Object.entries(present)) {
      assert.equal(info.client, id);
      assert.equal(info.user, '');
    }
    subscribers[0].subscription.unsubscribe();
    clients[1].disconnect();
    await until(async () => (await stats()) === 3, 'three present');
    clients.slice(2).forEach((client) => client.disconnect());
    await until(async () => (await stats()) === 0, 'nobody present');
    assert.deepEqual(await watcher.presence(channel), { clients: {} });
  });

  test(`${encoding}: history reads forwards, backwards, from a position and with a limit`, async (t) => {
    const client = await connect(t, encoding);
    const { subscription } = await subscribe(client, fresh('history'));
    for (let number = 1; number <= 10; number += 1) {
      await subscription.publish(payload(encoding, { number }));
    }
    const offsets = (result) => result.publications.map((publication) => publication.offset);
    const top = await subscription.history();
    assert.deepEqual(top.publications, []);
    assert.equal(top.offset, 10);
    assert.match(top.epoch, /^[a-zA-Z]{8}$/);
    const { epoch } = top;
    assert.deepEqual(offsets(await subscription.history({ limit: -1 })), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    assert.deepEqual(offsets(await subscription.history({ limit: 3 })), [1, 2, 3]);
    assert.deepEqual(offsets(await subscription.history({ limit: 3, since: { offset: 4, epoch } })), [5, 6, 7]);
    assert.deepEqual(offsets(await subscription.history({ limit: -1, since: { offset: 10, epoch } })), []);
    assert.deepEqual(offsets(await subscription.history({ limit: -1, reverse: true })), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert.deepEqual(offsets(await subscription.history({ limit: 2, reverse: true })), [10, 9]);
    const backwards = { limit: 2, reverse: true, since: { offset: 5, epoch } };
    assert.deepEqual(offsets(await subscription.history(backwards)), [4, 3]);
    const wrongEpoch = { limit: 1, since: { offset: 1, epoch: 'otherone' } };
    assert.equal((await rejection(subscription.history(wrongEpoch))).code, 112);
    const backwardsFromZero = { limit: 1, reverse: true, since: { offset: 0, epoch } };
    assert.equal((await rejection(subscription.history(backwardsFromZero))).code, 107);
  });

  test(`${encoding}: what the server does not offer is an error with its own code`, async (t) => {
    const client = await connect(t, encoding);
    assert.equal((await rejection(client.presence('recovery:x'))).code, 108);
    assert.equal((await rejection(client.presence('nowhere:x'))).code, 102);
    assert.equal((await rejection(client.publish('nowhere:x', payload(encoding, {})))).code, 102);
    assert.equal((await rejection(client.rpc('method', payload(encoding, {})))).code, 108);
    const unknown = client.newSubscription('nowhere:x');
    const unsubscribed = event(unknown, 'unsubscribed');
    unknown.subscribe();
    assert.equal((await unsubscribed).code, 102);
    assert.equal(client.state, 'connected');
  });

  test(`${encoding}: a message for which there is no handler ends the connection with 3508`, async (t) => {
    const client = await connect(t, encoding);
    const disconnected = event(client, 'disconnected');
    await client.send(payload(encoding, { fire: 'and forget' }));
    assert.equal((await disconnected).code, 3508);
  });

  test(`${encoding}: a message up to the limit passes, a larger one ends the connection for good`, async (t) => {
    const client = await connect(t, encoding);
    const { subscription, received } = await subscribe(client, fresh('large'));
    const text = 'x'.repeat(60000);
    await subscription.publish(payload(encoding, { text }));
    assert.equal(valueOf(encoding, (await received.count(1))[0].data).text, text);
    const disconnected = event(client, 'disconnected');
    rejection(subscription.publish(payload(encoding, { text: 'x'.repeat(70000) })));
    assert.equal((await disconnected).reason, 'message size limit exceeded');
  });
}

test('both encodings talk in one channel', async (t) => {
  const channel = fresh('mixed');
  const json = await subscribe(await connect(t, 'json'), channel);
  const protobuf = await subscribe(await connect(t, 'protobuf'), channel);
  await json.subscription.publish({ from: 'json' });
  await protobuf.subscription.publish(payload('protobuf', { from: 'protobuf' }));
  const values = [{ from: 'json' }, { from: 'protobuf' }];
  const inJson = (await json.received.count(2)).map((publication) => publication.data);
  const inProtobuf = (await protobuf.received.count(2)).map((publication) => valueOf('protobuf', publication.data));
  assert.deepEqual(inJson, values);
  assert.deepEqual(inProtobuf, values);
});

test('bytes that are not JSON reach Protobuf clients and end JSON clients with 3506', async (t) => {
  const channel = fresh('bytes');
  const json = await connect(t, 'json');
  await subscribe(json, channel);
  const protobuf = await subscribe(await connect(t, 'protobuf'), channel);
  const disconnected = event(json, 'disconnected');
  const bytes = new Uint8Array([0, 255, 254, 10, 13]);
  await protobuf.subscription.publish(bytes);
  assert.deepEqual(new Uint8Array((await protobuf.received.count(1))[0].data), bytes);
  assert.equal((await disconnected).code, 3506);
});

test('one frame with 100 times subscribe and unsubscribe is answered in order', async () => {
  const channel = fresh('pipeline');
  const commands = [{ id: 1, connect: {} }];
  for (let round = 0; round < 100; round += 1) {
    commands.push({ id: commands.length + 1, subscribe: { channel } });
    commands.push({ id: commands.length + 1, unsubscribe: { channel } });
  }
  commands.push({ id: commands.length + 1, subscribe: { channel } });
  commands.push({ id: commands.length + 1, presence: { channel } });
  const replies = await exchange(commands);
  assert.deepEqual(replies.map((reply) => reply.id), commands.map((command) => command.id));
  assert.deepEqual(replies.filter((reply) => reply.error), []);
  const present = Object.keys(replies.at(-1).presence.presence);
  assert.deepEqual(present, [replies[0].connect.client]);
});

// Sends all commands in one frame and answers the replies to them, pushes and pings left out.
function exchange(commands) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(ENDPOINT);
    const replies = [];
    socket.on('open', () => socket.send(commands.map((command) => JSON.stringify(command)).join('\n')));
    socket.on('message', (frame) => {
      const messages = frame.toString().trimEnd().split('\n').map((line) => JSON.parse(line));
      replies.push(...messages.filter((message) => message.id));
      if (replies.length >= commands.length) {
        socket.close();
        resolve(replies);
      }
    });
    socket.on('close', (code) => reject(new Error(`closed with ${code} after ${replies.length} replies`)));
    socket.on('error', reject);
  });
}
