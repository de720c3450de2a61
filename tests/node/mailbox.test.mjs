// Mailboxes with a client library that knows nothing of them. Every test has a server of its own, so that it can be
// killed; see gateway.mjs.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import WebSocket from 'ws';
import { Centrifuge as JsonClient } from 'centrifuge';
import { Centrifuge as ProtobufClient } from 'centrifuge/build/protobuf';
import { Gateway } from './gateway.mjs';
import { CuttableWebSocket, ENCODINGS, collect, event, fresh, token, until, valueOf } from './support.mjs';

const CONFIG = {
  client: {
    ping_interval: '1s',
    pong_timeout: '500ms',
    token: { hmac_secret_key: 'secret' },
    subscribe_to_user_personal_channel: { enabled: true },
  },
  mailbox: { enabled: true, replay_page: 100 },
};
/** Nobody is pinged, so nothing is acknowledged by pong. */
const WITHOUT_PINGS = {
  ...CONFIG,
  client: { ...CONFIG.client, ping_interval: '0s' },
  mailbox: { ...CONFIG.mailbox, ack_by_pong: false },
};

// A client of `user` with everything that its mailbox delivers, not connected yet.
async function device(t, gateway, encoding, user, options = {}) {
  const Client = encoding === 'protobuf' ? ProtobufClient : JsonClient;
  const client = new Client(gateway.endpoint, {
    websocket: WebSocket, minReconnectDelay: 50, maxReconnectDelay: 300, token: await token({ sub: user }), ...options,
  });
  t.after(() => client.disconnect());
  const received = collect(client, 'publication');
  return {
    client,
    received,
    numbers: () => received.list.map((context) => valueOf(encoding, context.data).number),
    async connect() {
      const subscribed = event(client, 'subscribed');
      client.connect();
      return subscribed;
    },
  };
}

function range(from, to) {
  return Array.from({ length: to - from + 1 }, (_, index) => from + index);
}

// What waits for the user, or for one of its devices.
async function waiting(gateway, user, device) {
  const { offset, cursor } = await gateway.api('mailbox_info', { user, device });
  return offset - cursor;
}

for (const encoding of ENCODINGS) {
  test(`${encoding}: 1,000 messages wait for who is away, and come in order, once, over page boundaries`, async (t) => {
    const gateway = await Gateway.start(t, CONFIG);
    const user = fresh('user');
    await gateway.sendNumbers(user, 1, 1000);
    const phone = await device(t, gateway, encoding, user);
    const context = await phone.connect();
    assert.equal(context.channel, `#${user}`);
    assert.equal(context.recovered, true, 'or the library would not hand them on');
    await phone.received.count(1000);
    assert.deepEqual(phone.numbers(), range(1, 1000));
    assert.deepEqual(phone.received.list.map((publication) => publication.offset), range(1, 1000));
    assert.equal(new Set(phone.received.list.map((publication) => publication.tags.id)).size, 1000);
    await gateway.sendNumbers(user, 1001, 1003);
    await phone.received.count(1003);
    assert.deepEqual(phone.numbers().slice(1000), [1001, 1002, 1003], 'live messages follow');
    // The library answers pings by itself, and that acknowledges.
    await until(async () => (await waiting(gateway, user)) === 0, 'everything acknowledged by pong');
    phone.client.disconnect();
    const again = await device(t, gateway, encoding, user);
    await again.connect();
    await gateway.sendNumbers(user, 1004, 1004);
    await again.received.count(1);
    assert.deepEqual(again.numbers(), [1004], 'nothing comes twice');
  });

  test(`${encoding}: a client that is killed in the middle gets the rest on the next connect`, async (t) => {
    const gateway = await Gateway.start(t, WITHOUT_PINGS);
    const user = fresh('user');
    await gateway.sendNumbers(user, 1, 1000);
    const phone = await device(t, gateway, encoding, user, { websocket: CuttableWebSocket });
    const cut = collect(phone.client, 'connecting');
    phone.client.on('publication', () => {
      if (phone.received.list.length === 350) CuttableWebSocket.cutAll();
    });
    await phone.connect();
    await cut.count(2);
    await phone.received.count(1000);
    assert.deepEqual(phone.numbers(), range(1, 1000), 'the library goes on from its position');
    // Another process of the same user knows nothing, and nothing was acknowledged.
    const other = await device(t, gateway, encoding, user);
    await other.connect();
    await other.received.count(1000);
    assert.deepEqual(other.numbers(), range(1, 1000));
  });

  test(`${encoding}: what was acknowledged by call does not come again`, async (t) => {
    const gateway = await Gateway.start(t, WITHOUT_PINGS);
    const user = fresh('user');
    await gateway.sendNumbers(user, 1, 300);
    const phone = await device(t, gateway, encoding, user);
    await phone.connect();
    await phone.received.count(300);
    const data = encoding === 'protobuf' ? new TextEncoder().encode('{"offset":250}') : { offset: 250 };
    await phone.client.rpc('mailbox.ack', data);
    assert.equal(await waiting(gateway, user), 50);
    phone.client.disconnect();
    const again = await device(t, gateway, encoding, user);
    await again.connect();
    await again.received.count(50);
    assert.deepEqual(again.numbers(), range(251, 300));
  });

  test(`${encoding}: a server that is killed loses nothing, and clients go on by themselves`, async (t) => {
    const gateway = await Gateway.start(t, CONFIG);
    const user = fresh('user');
    await gateway.sendNumbers(user, 1, 500);
    await gateway.kill();
    await gateway.restart();
    await gateway.sendNumbers(user, 501, 600);
    const phone = await device(t, gateway, encoding, user);
    await phone.connect();
    await phone.received.count(600);
    await gateway.kill();
    await gateway.restart();
    await gateway.sendNumbers(user, 601, 1000);
    await phone.received.count(1000);
    assert.deepEqual(phone.numbers(), range(1, 1000), 'in order, once: the epoch is that of the log');
    await until(async () => (await waiting(gateway, user)) === 0, 'everything acknowledged by pong');
  });

  test(`${encoding}: devices have cursors of their own`, async (t) => {
    const gateway = await Gateway.start(t, CONFIG);
    const user = fresh('user');
    const named = (name) => ({
      data: encoding === 'protobuf' ? new TextEncoder().encode(JSON.stringify({ device: name })) : { device: name },
    });
    const phone = await device(t, gateway, encoding, user, named('phone'));
    const laptop = await device(t, gateway, encoding, user, named('laptop'));
    await phone.connect();
    await laptop.connect();
    await gateway.sendNumbers(user, 1, 3);
    await Promise.all([phone.received.count(3), laptop.received.count(3)]);
    for (const name of ['phone', 'laptop']) {
      await until(async () => (await waiting(gateway, user, name)) === 0, `everything acknowledged by the ${name}`);
    }
    laptop.client.disconnect();
    await gateway.sendNumbers(user, 4, 10);
    await phone.received.count(10);
    await until(async () => (await waiting(gateway, user, 'phone')) === 0, 'everything acknowledged by the phone');
    assert.equal(await waiting(gateway, user, 'laptop'), 7);
    // A laptop that has forgotten its position gets what it has not acknowledged.
    const rebooted = await device(t, gateway, encoding, user, named('laptop'));
    await rebooted.connect();
    await rebooted.received.count(7);
    assert.deepEqual(rebooted.numbers(), range(4, 10));
    assert.deepEqual(phone.numbers(), range(1, 10));
  });
}

test('what is not acknowledged comes again, the same, and ends in the dead-letter channel', async (t) => {
  const gateway = await Gateway.start(t, {
    ...WITHOUT_PINGS,
    channel: { namespaces: [{ name: 'dead', allow_subscribe_for_client: true }] },
    mailbox: {
      ...WITHOUT_PINGS.mailbox, ack_wait: '200ms', max_deliveries: 2, dead_letter_channel: 'dead:letters',
    },
  });
  const watcher = await device(t, gateway, 'json', fresh('watcher'));
  const subscription = watcher.client.newSubscription('dead:letters');
  const letters = collect(subscription, 'publication');
  subscription.subscribe();
  watcher.client.connect();
  await subscription.ready(15000);
  const user = fresh('user');
  const phone = await device(t, gateway, 'json', user);
  await phone.connect();
  const { offset, epoch } = await gateway.api('send', { user, data: { number: 1 }, tags: { kind: 'test' } });
  const [{ data: letter }] = await letters.count(1);
  const deliveries = phone.received.list;
  assert.ok(deliveries.length >= 2, `it came ${deliveries.length} times`);
  for (const context of deliveries) {
    assert.deepEqual([context.offset, context.tags, context.data], [offset, deliveries[0].tags, { number: 1 }]);
  }
  assert.deepEqual(letter, {
    user, offset, epoch, id: deliveries[0].tags.id, reason: 'max_deliveries', data: { number: 1 },
    tags: { kind: 'test' }, sent_at: letter.sent_at,
  });
  assert.ok(Math.abs(Date.now() - letter.sent_at) < 60000);
  await until(async () => (await waiting(gateway, user)) === 0, 'the cursor past the dead letter');
  const before = deliveries.length;
  await gateway.sendNumbers(user, 2, 2);
  await phone.received.count(before + 1);
  assert.equal(phone.numbers().at(-1), 2, 'the next one is delivered');
});

test('messages and their tags arrive as they were sent, one key is one message, and time to live ends', async (t) => {
  const gateway = await Gateway.start(t, CONFIG);
  const user = fresh('user');
  const data = { text: 'Öl 🛢', list: [1, 2.5, null] };
  const first = await gateway.api('send', { user, data, tags: { kind: 'test', id: 'mine' }, idempotency_key: 'once' });
  const second = await gateway.api('send', { user, data: { other: true }, idempotency_key: 'once' });
  assert.deepEqual(first, second);
  await gateway.api('send', { user, data: { late: true }, ttl: 1 });
  const { messages } = await gateway.api('mailbox_list', { user });
  assert.deepEqual(messages.map((message) => message.data), [data, { late: true }]);
  await new Promise((resolve) => setTimeout(resolve, 2100));
  const phone = await device(t, gateway, 'json', user);
  await phone.connect();
  await gateway.api('send', { users: [user, fresh('other')], data: { number: 3 } });
  await phone.received.count(2);
  const [publication, live] = phone.received.list;
  assert.deepEqual(publication.data, data);
  assert.equal(publication.tags.kind, 'test');
  assert.equal(publication.tags.id, 'mine', "the sender's tags come first");
  assert.deepEqual(live.data, { number: 3 }, 'what has expired is not delivered');
  await gateway.api('mailbox_purge', { user });
  assert.equal(await waiting(gateway, user), 0);
});
