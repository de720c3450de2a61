// Who may come in and who may stay: tokens of connections and subscriptions. Server profile: py.json.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ENCODINGS, collect, connect, event, fresh, newClient, nowSeconds, payload, rejection, token, until } from './support.mjs';

const USER = 'maren';
const connectionToken = (claims = {}) => token({ sub: USER, ...claims });
const subscriptionToken = (channel, claims = {}) => token({ sub: USER, channel, ...claims });

for (const encoding of ENCODINGS) {
  test(`${encoding}: a valid token lets its user in, with the information it carries`, async (t) => {
    const channel = fresh('info');
    const client = await connect(t, encoding, { token: await connectionToken({ info: { name: 'Maren' } }) });
    const subscription = client.newSubscription(channel, { token: await subscriptionToken(channel, { info: { seat: 7 } }) });
    subscription.subscribe();
    await subscription.ready(15000);
    const [info] = Object.values((await subscription.presence()).clients);
    const decode = (data) => (encoding === 'protobuf' ? JSON.parse(new TextDecoder().decode(data)) : data);
    assert.equal(info.user, USER);
    assert.deepEqual(decode(info.connInfo), { name: 'Maren' });
    assert.deepEqual(decode(info.chanInfo), { seat: 7 });
  });

  test(`${encoding}: no token, no entry`, async (t) => {
    const client = newClient(t, encoding);
    const disconnected = event(client, 'disconnected');
    client.connect();
    assert.equal((await disconnected).code, 3501);
  });

  const forged = {
    'another secret': () => token({ sub: USER }, 'another secret'),
    'no signature': async () => `${(await connectionToken()).split('.').slice(0, 2).join('.')}.`,
    'the algorithm none': async () => {
      const header = Buffer.from(JSON.stringify({ alg: 'none', typ: 'JWT' })).toString('base64url');
      return `${header}.${(await connectionToken()).split('.')[1]}.`;
    },
    'a channel, like a subscription token': () => subscriptionToken('news'),
    'no dots at all': async () => 'token',
  };
  for (const [what, make] of Object.entries(forged)) {
    test(`${encoding}: a token with ${what} ends the connection with 3500`, async (t) => {
      const client = newClient(t, encoding, { token: await make() });
      const disconnected = event(client, 'disconnected');
      client.connect();
      assert.equal((await disconnected).code, 3500);
    });
  }

  test(`${encoding}: a token that has expired makes the client ask for a new one`, async (t) => {
    let calls = 0;
    const getToken = () => {
      calls += 1;
      return connectionToken();
    };
    const expired = await connectionToken({ exp: nowSeconds() - 3600 });
    const client = newClient(t, encoding, { token: expired, getToken });
    client.connect();
    await client.ready(15000);
    assert.equal(calls, 1);
  });

  test(`${encoding}: a connection is refreshed before its token expires and stays`, async (t) => {
    const exps = [];
    const getToken = () => {
      exps.push(nowSeconds() + 2);
      return connectionToken({ exp: exps.at(-1) });
    };
    const client = newClient(t, encoding, { getToken });
    const ids = collect(client, 'connected');
    const ends = collect(client, 'disconnected');
    client.connect();
    await until(() => exps.length >= 4, 'three refreshes');
    await client.presence(fresh('none')).catch(() => {});
    assert.equal(client.state, 'connected');
    assert.equal(ids.list.length, 1, 'the connection was kept');
    assert.deepEqual(ends.list, []);
  });

  test(`${encoding}: a refresh with a token of somebody else ends the connection with 3500`, async (t) => {
    let calls = 0;
    const getToken = () => {
      calls += 1;
      return calls === 1 ? connectionToken({ exp: nowSeconds() + 2 }) : token({ sub: 'mallory', exp: nowSeconds() + 60 });
    };
    const client = newClient(t, encoding, { getToken });
    const disconnected = event(client, 'disconnected');
    client.connect();
    assert.equal((await disconnected).code, 3500);
  });

  test(`${encoding}: a subscription is refreshed before its token expires and stays`, async (t) => {
    const channel = fresh('short');
    const client = await connect(t, encoding, { token: await connectionToken() });
    let calls = 0;
    const getToken = ({ channel: asked }) => {
      calls += 1;
      assert.equal(asked, channel);
      return subscriptionToken(channel, { exp: nowSeconds() + 2 });
    };
    const subscription = client.newSubscription(channel, { getToken });
    const subscribed = collect(subscription, 'subscribed');
    subscription.subscribe();
    await until(() => calls >= 4, 'three refreshes');
    await subscription.publish(payload(encoding, { still: 'here' }));
    assert.equal(subscription.state, 'subscribed');
    assert.equal(subscribed.list.length, 1, 'the subscription was kept');
  });

  test(`${encoding}: a subscription token that has expired makes the client ask for a new one`, async (t) => {
    const channel = fresh('late');
    const client = await connect(t, encoding, { token: await connectionToken() });
    let calls = 0;
    const getToken = () => {
      calls += 1;
      return subscriptionToken(channel);
    };
    const expired = await subscriptionToken(channel, { exp: nowSeconds() - 3600 });
    const options = { token: expired, getToken, minResubscribeDelay: 50, maxResubscribeDelay: 100 };
    const subscription = client.newSubscription(channel, options);
    subscription.subscribe();
    await subscription.ready(15000);
    assert.equal(calls, 1);
  });

  test(`${encoding}: without a subscription token nobody subscribes, publishes, reads or sees`, async (t) => {
    const channel = fresh('closed');
    const client = await connect(t, encoding, { token: await connectionToken() });
    const subscription = client.newSubscription(channel);
    const unsubscribed = event(subscription, 'unsubscribed');
    subscription.subscribe();
    assert.equal((await unsubscribed).code, 103);
    assert.equal((await rejection(client.publish(channel, payload(encoding, {})))).code, 103);
    assert.equal((await rejection(client.history(channel, { limit: 1 }))).code, 103);
    assert.equal((await rejection(client.presence(channel))).code, 103);
    assert.equal((await rejection(client.presenceStats(channel))).code, 103);
    assert.equal(client.state, 'connected');
  });

  test(`${encoding}: a subscription token that was tampered with is refused with 103`, async (t) => {
    const channel = fresh('forged');
    const client = await connect(t, encoding, { token: await connectionToken() });
    const subscription = client.newSubscription(channel, { token: await token({ sub: USER, channel }, 'another secret') });
    const unsubscribed = event(subscription, 'unsubscribed');
    subscription.subscribe();
    assert.equal((await unsubscribed).code, 103);
    assert.equal(client.state, 'connected');
  });

  const foreign = {
    'another channel': (channel) => token({ sub: USER, channel: `${channel}x` }),
    'another user': (channel) => token({ sub: 'mallory', channel }),
    'another connection': (channel) => token({ sub: USER, channel, client: 'somebody' }),
  };
  for (const [what, make] of Object.entries(foreign)) {
    test(`${encoding}: a subscription token for ${what} ends the connection with 3500`, async (t) => {
      const channel = fresh('foreign');
      const client = await connect(t, encoding, { token: await connectionToken() });
      const disconnected = event(client, 'disconnected');
      const subscription = client.newSubscription(channel, { token: await make(channel) });
      subscription.subscribe();
      assert.equal((await disconnected).code, 3500);
    });
  }

  test(`${encoding}: the channels of a connection token are subscribed by the server`, async (t) => {
    const channels = [fresh('given'), fresh('given')];
    const client = newClient(t, encoding, { token: await connectionToken({ channels }) });
    const subscribed = collect(client, 'subscribed');
    client.connect();
    const contexts = await subscribed.count(3);
    const names = contexts.map((context) => context.channel).sort();
    assert.deepEqual(names, [...channels, `#${USER}`].sort());
    assert.ok(contexts.every((context) => context.recoverable && context.positioned));
  });
}
