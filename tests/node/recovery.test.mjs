// What a client missed while it was away, in both encodings. Server profile: js_stream.json.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  CuttableWebSocket, ENCODINGS, api, collect, connect, event, fresh, newClient, payload, subscribe, valueOf,
} from './support.mjs';

async function publishNumbers(channel, from, to) {
  for (let number = from; number <= to; number += 1) {
    await api('publish', { channel, data: { number } });
  }
}

const numbers = (encoding, list) => list.map((publication) => valueOf(encoding, publication.data).number);

for (const encoding of ENCODINGS) {
  test(`${encoding}: publications made while the client was disconnected arrive in order`, async (t) => {
    const channel = fresh('recovery:away');
    const client = await connect(t, encoding);
    const { subscription, received } = await subscribe(client, channel);
    await publishNumbers(channel, 1, 2);
    await received.count(2);
    client.disconnect();
    await publishNumbers(channel, 3, 12);
    const subscribed = event(subscription, 'subscribed');
    client.connect();
    const context = await subscribed;
    assert.equal(context.wasRecovering, true);
    assert.equal(context.recovered, true);
    assert.equal(context.hasRecoveredPublications, true);
    const publications = await received.count(12);
    assert.deepEqual(numbers(encoding, publications), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert.deepEqual(publications.map((publication) => publication.offset), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    await publishNumbers(channel, 13, 13);
    assert.deepEqual(numbers(encoding, await received.count(13)).slice(12), [13]);
  });

  test(`${encoding}: a connection that is cut under the client comes back with what it missed`, async (t) => {
    const channel = fresh('recovery:cut');
    const options = { websocket: CuttableWebSocket, minReconnectDelay: 300, maxReconnectDelay: 600 };
    const client = await connect(t, encoding, options);
    const { subscription, received } = await subscribe(client, channel);
    const subscribed = event(subscription, 'subscribed');
    CuttableWebSocket.cutAll();
    await publishNumbers(channel, 1, 5);
    const context = await subscribed;
    assert.equal(context.wasRecovering, true);
    assert.equal(context.recovered, true);
    assert.deepEqual(numbers(encoding, await received.count(5)), [1, 2, 3, 4, 5]);
  });

  test(`${encoding}: unsubscribing keeps the position, and subscribing again recovers from it`, async (t) => {
    const channel = fresh('recovery:pause');
    const client = await connect(t, encoding);
    const { subscription, received } = await subscribe(client, channel);
    await publishNumbers(channel, 1, 1);
    await received.count(1);
    subscription.unsubscribe();
    await publishNumbers(channel, 2, 4);
    const subscribed = event(subscription, 'subscribed');
    subscription.subscribe();
    assert.equal((await subscribed).recovered, true);
    assert.deepEqual(numbers(encoding, await received.count(4)), [1, 2, 3, 4]);
  });

  test(`${encoding}: a position that the history no longer covers is not recovered`, async (t) => {
    const channel = fresh('smallhistory:lost');
    const client = await connect(t, encoding);
    const { subscription, received } = await subscribe(client, channel);
    client.disconnect();
    await publishNumbers(channel, 1, 5);
    const subscribed = event(subscription, 'subscribed');
    client.connect();
    const context = await subscribed;
    assert.equal(context.wasRecovering, true);
    assert.equal(context.recovered, false);
    assert.equal(context.streamPosition.offset, 5);
    await publishNumbers(channel, 6, 6);
    assert.deepEqual(numbers(encoding, await received.count(1)), [6]);
  });

  test(`${encoding}: a subscription can start from a position that the application kept`, async (t) => {
    const channel = fresh('recovery:since');
    await publishNumbers(channel, 1, 4);
    const { epoch } = await api('history', { channel });
    const client = await connect(t, encoding);
    const subscription = client.newSubscription(channel, { since: { offset: 2, epoch } });
    const received = collect(subscription, 'publication');
    const subscribed = event(subscription, 'subscribed');
    subscription.subscribe();
    assert.equal((await subscribed).recovered, true);
    assert.deepEqual(numbers(encoding, await received.count(2)), [3, 4]);
  });

  test(`${encoding}: a position of another epoch is not recovered`, async (t) => {
    const channel = fresh('recovery:epoch');
    await publishNumbers(channel, 1, 4);
    const client = await connect(t, encoding);
    const subscription = client.newSubscription(channel, { since: { offset: 2, epoch: 'elsewher' } });
    const subscribed = event(subscription, 'subscribed');
    subscription.subscribe();
    const context = await subscribed;
    assert.equal(context.wasRecovering, true);
    assert.equal(context.recovered, false);
    assert.equal(context.streamPosition.offset, 4);
  });

  test(`${encoding}: getState gives the first position, and the rest is recovered`, async (t) => {
    const channel = fresh('recovery:state');
    await publishNumbers(channel, 1, 3);
    let calls = 0;
    const getState = async () => {
      calls += 1;
      return { offset: 0, epoch: '' };
    };
    const client = await connect(t, encoding);
    const { received } = await subscribe(client, channel, { getState });
    assert.deepEqual(numbers(encoding, await received.count(3)), [1, 2, 3]);
    client.disconnect();
    await publishNumbers(channel, 4, 5);
    client.connect();
    assert.deepEqual(numbers(encoding, await received.count(5)), [1, 2, 3, 4, 5]);
    assert.equal(calls, 1, 'a recovered subscription keeps its position');
  });

  test(`${encoding}: getState is asked again when the server answers 112`, async (t) => {
    const channel = fresh('smallhistory:state');
    let calls = 0;
    const getState = async () => {
      calls += 1;
      const { offset, epoch } = await api('history', { channel });
      return { offset, epoch };
    };
    const client = newClient(t, encoding);
    const subscription = client.newSubscription(channel, { getState, minResubscribeDelay: 50, maxResubscribeDelay: 100 });
    const received = collect(subscription, 'publication');
    const contexts = collect(subscription, 'subscribed');
    subscription.subscribe();
    client.connect();
    await contexts.count(1);
    assert.equal(calls, 1);
    client.disconnect();
    await publishNumbers(channel, 1, 5);
    client.connect();
    const [, second] = await contexts.count(2);
    assert.equal(calls, 2);
    assert.equal(second.recovered, true, 'the position that getState gave is recovered');
    await publishNumbers(channel, 6, 6);
    assert.deepEqual(numbers(encoding, await received.count(1)), [6]);
  });

  test(`${encoding}: what clients publish is recovered with who published it`, async (t) => {
    const channel = fresh('recovery:info');
    const reader = await connect(t, encoding);
    const { subscription, received } = await subscribe(reader, channel);
    reader.disconnect();
    const writer = newClient(t, encoding);
    const connected = event(writer, 'connected');
    writer.connect();
    const { client: id } = await connected;
    await writer.publish(channel, payload(encoding, { number: 1, text: 'Öl 🛢' }));
    const subscribed = event(subscription, 'subscribed');
    reader.connect();
    await subscribed;
    const [publication] = await received.count(1);
    assert.equal(publication.info.client, id);
    assert.equal(valueOf(encoding, publication.data).text, 'Öl 🛢');
  });
}
