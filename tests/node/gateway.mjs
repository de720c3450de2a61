// A millpond of a test's own: its configuration and its log in a folder of its own, killed as a power cut would kill it.
//
// MILLPOND_BINARY is the program; MILLPOND_SCRATCH is a folder on a disk, as the log refuses file systems in memory.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { API_KEY, until } from './support.mjs';

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

// Variables of this run would be taken for settings of the gateway.
function environment() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('MILLPOND_')));
}

export class Gateway {
  #folder;
  #config;
  #port;
  #child = null;

  // Starts it; it is stopped and its folder removed when the test ends.
  static async start(test, config) {
    const gateway = new Gateway();
    gateway.#folder = await mkdtemp(join(process.env.MILLPOND_SCRATCH, 'mailbox-'));
    gateway.#port = await freePort();
    gateway.#config = {
      ...config,
      http_server: { internal_port: 0 },
      http_api: { key: API_KEY },
      server: { max_connections: 1000 },
      storage: { path: join(gateway.#folder, 'log'), segment_size: '1MiB', ...config.storage },
    };
    test.after(() => gateway.#end());
    await gateway.restart();
    return gateway;
  }

  get endpoint() {
    return `ws://127.0.0.1:${this.#port}/connection/websocket`;
  }

  // Starts it again at the same address with the same log; `settings` change its configuration.
  async restart(settings = {}) {
    Object.assign(this.#config, settings);
    const file = join(this.#folder, 'config.json');
    await writeFile(file, JSON.stringify(this.#config));
    const log = await open(join(this.#folder, 'output'), 'a');
    const args = ['serve', '--config', file, '--shards', '2', '--listen', `127.0.0.1:${this.#port}`];
    this.#child = spawn(process.env.MILLPOND_BINARY, args, { stdio: ['ignore', log.fd, log.fd], env: environment() });
    await log.close();
    await until(() => this.#answers(), 'an answer of the gateway');
  }

  async kill(signal = 'SIGKILL') {
    const child = this.#child;
    this.#child = null;
    if (child.exitCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  async #answers() {
    if (this.#child.exitCode !== null) {
      throw new Error(`the gateway ended at start:\n${await readFile(join(this.#folder, 'output'), 'utf8')}`);
    }
    return fetch(`http://127.0.0.1:${this.#port}/health`).then(() => true, () => false);
  }

  async #end() {
    if (this.#child) await this.kill();
    await rm(this.#folder, { recursive: true });
  }

  // Calls the server API, which must succeed.
  async api(method, params) {
    const response = await fetch(`http://127.0.0.1:${this.#port}/api/${method}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', 'X-API-Key': API_KEY },
      body: JSON.stringify(params),
    });
    const text = await response.text();
    const { result } = JSON.parse(text);
    if (result === undefined) throw new Error(`/api/${method} answered ${text}`);
    return result;
  }

  // Sends messages numbered `from` to `to` to the user, many in a request, in order.
  async sendNumbers(user, from, to) {
    const numbers = Array.from({ length: to - from + 1 }, (_, index) => from + index);
    for (let start = 0; start < numbers.length; start += 250) {
      const commands = numbers.slice(start, start + 250).map((number) => ({ send: { user, data: { number } } }));
      const { replies } = await this.api('batch', { commands });
      for (const reply of replies) {
        if (!reply.send?.offset) throw new Error(`send was answered ${JSON.stringify(reply)}`);
      }
    }
  }
}
