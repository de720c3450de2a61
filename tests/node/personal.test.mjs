// Joins, leaves and the personal channel of a user. Server profile: py.json.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ENCODINGS, collect, event, fresh, newClient, payload, rejection, token, until, valueOf } from './support.mjs';

// A client of `user`, not connected yet.
async function clientOf(t, encoding, user) {
  return newClient(t, encoding, { token: await token({ sub: user }) });
}

// Subscribes a connected or connecting client and waits.
async function join(client, user, channel) {
  const subscription = client.newSubscription(channel, { token: await token({ sub: user, channel }) });
  const joins = collect(subscription, 'join');
  const leaves = collect(subscription, 'leave');
  subscription.subscribe();
  await subscription.ready(15000);
  return { subscription, joins, leaves };
}

for (const encoding of ENCODINGS) {
  test(`${encoding}: a user is subscribed to a channel of its own, sees itself join, and is reached there`, async (t) => {
    const user = fresh('user');
    const client = await clientOf(t, encoding, user);
    const subscribed = event(client, 'subscribed');
    const joined = event(client, 'join');
    const connected = event(client, 'connected');
    client.connect();
    const { client: id } = await connected;
    assert.equal((await subscribed).channel, `#${user}`);
    const join = await joined;
    assert.equal(join.channel, `#${user}`);
    assert.deepEqual([join.info.client, join.info.user], [id, user]);
    const publication = event(client, 'publication');
    await client.publish(`#${user}`, payload(encoding, { to: 'me' }));
    const context = await publication;
    assert.equal(context.channel, `#${user}`);
    assert.deepEqual(valueOf(encoding, context.data), { to: 'me' });
    assert.equal(context.info.user, user);
  });

  test(`${encoding}: the personal channel reaches every device of the user and nobody else`, async (t) => {
    const user = fresh('user');
    const devices = await Promise.all([clientOf(t, encoding, user), clientOf(t, encoding, user)]);
    const stranger = await clientOf(t, encoding, fresh('stranger'));
    const received = devices.map((device) => collect(device, 'publication'));
    const elsewhere = collect(stranger, 'publication');
    for (const client of [...devices, stranger]) {
      client.connect();
      await client.ready(15000);
    }
    await devices[0].publish(`#${user}`, payload(encoding, { n: 1 }));
    for (const publications of received) {
      assert.deepEqual(valueOf(encoding, (await publications.count(1))[0].data), { n: 1 });
    }
    assert.equal((await rejection(stranger.publish(`#${user}`, payload(encoding, { n: 2 })))).code, 103);
    const spying = stranger.newSubscription(`#${user}`);
    const unsubscribed = event(spying, 'unsubscribed');
    spying.subscribe();
    assert.equal((await unsubscribed).code, 103);
    assert.deepEqual(elsewhere.list, []);
    assert.ok(received.every((publications) => publications.list.length === 1));
  });

  test(`${encoding}: what a user missed in the personal channel arrives on reconnect`, async (t) => {
    const user = fresh('user');
    const [reader, writer] = [await clientOf(t, encoding, user), await clientOf(t, encoding, user)];
    const publications = collect(reader, 'publication');
    reader.connect();
    await reader.ready(15000);
    writer.connect();
    await writer.ready(15000);
    reader.disconnect();
    for (let number = 1; number <= 3; number += 1) {
      await writer.publish(`#${user}`, payload(encoding, { number }));
    }
    const subscribed = event(reader, 'subscribed');
    reader.connect();
    assert.equal((await subscribed).recovered, true);
    const values = (await publications.count(3)).map((context) => valueOf(encoding, context.data).number);
    assert.deepEqual(values, [1, 2, 3]);
  });

  test(`${encoding}: subscribers see who joins and who leaves, once each`, async (t) => {
    const channel = fresh('room');
    const [anna, bert] = [await clientOf(t, encoding, 'anna'), await clientOf(t, encoding, 'bert')];
    anna.connect();
    bert.connect();
    const first = await join(anna, 'anna', channel);
    await first.joins.count(1);
    const second = await join(bert, 'bert', channel);
    const joins = await first.joins.count(2);
    assert.deepEqual(joins.map((context) => context.info.user), ['anna', 'bert']);
    assert.equal(Object.keys((await first.subscription.presence()).clients).length, 2);
    assert.deepEqual(await first.subscription.presenceStats(), { numClients: 2, numUsers: 2 });
    second.subscription.unsubscribe();
    await first.leaves.count(1);
    second.subscription.subscribe();
    await first.joins.count(3);
    bert.disconnect();
    const leaves = await first.leaves.count(2);
    assert.deepEqual(leaves.map((context) => context.info.user), ['bert', 'bert']);
    await until(async () => (await first.subscription.presenceStats()).numClients === 1, 'one present');
    assert.deepEqual((await first.subscription.presenceStats()), { numClients: 1, numUsers: 1 });
    assert.equal(first.joins.list.length, 3);
  });
}
