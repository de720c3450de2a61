// The HTTP server API on the client port, and what clients see of it. Server profile: js_stream.json.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ADDRESS, ENCODINGS, api, callApi, collect, connect, event, fresh, newClient, subscribe, valueOf } from './support.mjs';

// A connected client together with its id.
async function connectWithId(t, encoding) {
  const client = newClient(t, encoding);
  const connected = event(client, 'connected');
  client.connect();
  return { client, id: (await connected).client };
}

for (const encoding of ENCODINGS) {
  test(`${encoding}: a publication of the server API has no publisher, and keeps its tags`, async (t) => {
    const channel = fresh('api');
    const { received } = await subscribe(await connect(t, encoding), channel);
    const { offset, epoch } = await api('publish', { channel, data: { a: [1, 'ü'] }, tags: { colour: 'blue' } });
    assert.equal(offset, 1);
    const [publication] = await received.count(1);
    assert.deepEqual(valueOf(encoding, publication.data), { a: [1, 'ü'] });
    assert.equal(publication.info, undefined);
    assert.deepEqual({ ...publication.tags }, { colour: 'blue' });
    assert.equal((await api('history', { channel })).epoch, epoch);
  });

  test(`${encoding}: broadcast reaches several channels and answers for each`, async (t) => {
    const channels = [fresh('one'), fresh('two')];
    const client = await connect(t, encoding);
    const all = await Promise.all(channels.map((channel) => subscribe(client, channel)));
    const { responses } = await api('broadcast', { channels: [...channels, 'nowhere:x'], data: { to: 'all' } });
    assert.deepEqual(responses.map((response) => response.result?.offset), [1, 1, undefined]);
    assert.equal(responses[2].error.code, 102);
    for (const { received } of all) {
      assert.deepEqual(valueOf(encoding, (await received.count(1))[0].data), { to: 'all' });
    }
  });

  test(`${encoding}: unsubscribing by the server ends the subscription with 2000`, async (t) => {
    const channel = fresh('evicted');
    const { client, id } = await connectWithId(t, encoding);
    const { subscription } = await subscribe(client, channel);
    const unsubscribed = event(subscription, 'unsubscribed');
    await api('unsubscribe', { user: '', client: id, channel });
    assert.equal((await unsubscribed).code, 2000);
    assert.equal(client.state, 'connected');
    assert.equal((await api('presence_stats', { channel })).num_clients, 0);
  });

  test(`${encoding}: disconnecting by the server is final with 3503`, async (t) => {
    const { client, id } = await connectWithId(t, encoding);
    const disconnected = event(client, 'disconnected');
    await api('disconnect', { user: '', client: id });
    const context = await disconnected;
    assert.equal(context.code, 3503);
    assert.equal(context.reason, 'force disconnect');
  });

  test(`${encoding}: the application's own codes decide whether the client comes back`, async (t) => {
    const { client, id } = await connectWithId(t, encoding);
    const connecting = event(client, 'connecting');
    const connected = event(client, 'connected');
    await api('disconnect', { user: '', client: id, disconnect: { code: 4000, reason: 'come back' } });
    assert.equal((await connecting).code, 4000);
    const { client: second } = await connected;
    assert.notEqual(second, id);
    const disconnected = event(client, 'disconnected');
    await api('disconnect', { user: '', client: second, disconnect: { code: 4500, reason: 'stay away' } });
    const context = await disconnected;
    assert.deepEqual([context.code, context.reason], [4500, 'stay away']);
  });

  test(`${encoding}: subscribing by the server delivers publications on the client itself`, async (t) => {
    const channel = fresh('pushed');
    const { client, id } = await connectWithId(t, encoding);
    const subscribed = event(client, 'subscribed');
    await api('subscribe', { user: '', client: id, channel });
    assert.equal((await subscribed).channel, channel);
    const publication = event(client, 'publication');
    await api('publish', { channel, data: { x: 1 } });
    const context = await publication;
    assert.equal(context.channel, channel);
    assert.deepEqual(valueOf(encoding, context.data), { x: 1 });
    const unsubscribed = event(client, 'unsubscribed');
    await api('unsubscribe', { user: '', client: id, channel });
    assert.equal((await unsubscribed).channel, channel);
  });

  test(`${encoding}: the same idempotency key delivers once`, async (t) => {
    const channel = fresh('once');
    const { received } = await subscribe(await connect(t, encoding), channel);
    const first = await api('publish', { channel, data: { n: 1 }, idempotency_key: 'k' });
    const second = await api('publish', { channel, data: { n: 2 }, idempotency_key: 'k' });
    assert.deepEqual(second, first);
    await api('publish', { channel, data: { n: 3 } });
    const publications = await received.count(2);
    assert.deepEqual(publications.map((publication) => valueOf(encoding, publication.data).n), [1, 3]);
  });

  test(`${encoding}: an older version is answered and not delivered`, async (t) => {
    const channel = fresh('version');
    const { received } = await subscribe(await connect(t, encoding), channel);
    await api('publish', { channel, data: { n: 5 }, version: 5 });
    const suppressed = await api('publish', { channel, data: { n: 4 }, version: 4 });
    assert.equal(suppressed.offset, 1);
    await api('publish', { channel, data: { n: 6 }, version: 6 });
    const publications = await received.count(2);
    assert.deepEqual(publications.map((publication) => valueOf(encoding, publication.data).n), [5, 6]);
  });
}

test('history is read with limit, position and direction, and removed', async () => {
  const channel = fresh('past');
  for (let number = 1; number <= 5; number += 1) {
    await api('publish', { channel, data: { number } });
  }
  const all = await api('history', { channel, limit: -1 });
  assert.deepEqual(all.publications.map((publication) => publication.offset), [1, 2, 3, 4, 5]);
  assert.deepEqual(all.publications.map((publication) => publication.data.number), [1, 2, 3, 4, 5]);
  const since = { offset: 2, epoch: all.epoch };
  const page = await api('history', { channel, limit: 2, since });
  assert.deepEqual(page.publications.map((publication) => publication.offset), [3, 4]);
  const reversed = await api('history', { channel, limit: 2, reverse: true });
  assert.deepEqual(reversed.publications.map((publication) => publication.offset), [5, 4]);
  await api('history_remove', { channel });
  assert.deepEqual(await api('history', { channel, limit: -1 }), { publications: [], epoch: all.epoch, offset: 5 });
});

test('presence, its numbers, channels and info describe who is here', async (t) => {
  const channel = fresh('described');
  const { client, id } = await connectWithId(t, 'json');
  await subscribe(client, channel);
  const { presence } = await api('presence', { channel });
  assert.deepEqual(presence, { [id]: { user: '', client: id } });
  assert.deepEqual(await api('presence_stats', { channel }), { num_clients: 1, num_users: 1 });
  const { channels } = await api('channels', { pattern: channel });
  assert.deepEqual(channels, { [channel]: { num_clients: 1 } });
  const { nodes } = await api('info', {});
  assert.equal(nodes.length, 1);
  assert.ok(nodes[0].num_clients >= 1 && nodes[0].num_channels >= 1);
});

test('a batch runs its commands in order', async () => {
  const channel = fresh('batch');
  const publish = (n) => ({ publish: { channel, data: { n } } });
  const commands = [publish(1), { publish: { channel: 'nowhere:x', data: {} } }, publish(2), { history: { channel } }];
  // Replies stand at the top, without `result`.
  const { status, reply } = await callApi('batch', { commands });
  assert.equal(status, 200);
  const replies = reply.replies ?? reply.result.replies;
  assert.equal(replies.length, 4);
  assert.equal(replies[0].publish.offset, 1);
  assert.equal(replies[1].error.code, 102);
  assert.equal(replies[2].publish.offset, 2);
  assert.equal(replies[3].history.offset, 2);
});

test('nobody gets in without the key', async () => {
  const params = { channel: fresh('locked'), data: {} };
  assert.equal((await callApi('publish', params, { key: null })).status, 401);
  assert.equal((await callApi('publish', params, { key: 'wrong' })).status, 401);
  assert.equal((await callApi('publish', params, { key: null, headers: { Authorization: 'apikey wrong' } })).status, 401);
  const other = await callApi('publish', params, { key: null, headers: { Authorization: 'apikey test-api-key' } });
  assert.equal(other.status, 200);
});

test('errors of the application are answered with 200, or with a status where that is asked for', async () => {
  const unknown = await callApi('publish', { channel: 'nowhere:x', data: {} });
  assert.deepEqual([unknown.status, unknown.reply.error.code], [200, 102]);
  const headers = { 'X-Centrifugo-Error-Mode': 'transport' };
  const reflected = await callApi('publish', { channel: 'nowhere:x', data: {} }, { headers });
  assert.deepEqual([reflected.status, reflected.reply.error.code], [404, 102]);
  assert.equal((await callApi('publish', { channel: fresh('empty') })).reply.error.code, 107);
  assert.equal((await callApi('publish', { data: {} })).reply.error.code, 107);
  assert.equal((await callApi('presence', { channel: 'recovery:x' })).reply.error.code, 108);
});

test('what is not a call is refused', async () => {
  assert.equal((await callApi('publish', '{"channel":')).status, 400);
  const get = await fetch(`http://${ADDRESS}/api/publish`, { headers: { 'X-API-Key': 'test-api-key' } });
  assert.equal(get.status, 405);
  assert.equal((await callApi('no_such_method', {})).status, 404);
  assert.equal((await fetch(`http://${ADDRESS}/nowhere`)).status, 404);
});

test('100 publications made at once are numbered without a gap and reach a subscriber in that order', async (t) => {
  const channel = fresh('storm');
  const client = await connect(t, 'json');
  const { received } = await subscribe(client, channel);
  const closed = collect(client, 'disconnected');
  const results = await Promise.all(Array.from({ length: 100 }, (_, n) => api('publish', { channel, data: { n } })));
  const numbers = Array.from({ length: 100 }, (_, index) => index + 1);
  assert.deepEqual(results.map((result) => result.offset).sort((a, b) => a - b), numbers);
  assert.deepEqual((await received.count(100)).map((publication) => publication.offset), numbers);
  assert.deepEqual(closed.list, []);
});
