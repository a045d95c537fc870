// What the Node client scripts of this folder share: how they are run, and a server that fails once.
//
// Every script is used as node SCRIPT BASE_URL KEY, where BASE_URL ends in /v1 and the server asks for that key. Each check
// prints a line; the first that fails ends the script with an error and exit code 1.

import assert from 'node:assert/strict';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

export const NORWAY = [{ role: 'user', content: 'What is the capital of Norway?' }];
export const GREETING = [{ role: 'user', content: 'good evening' }];
export const DAKAR = [{ role: 'user', content: 'What time is it in Dakar?' }];
export const OVERLONG = [{ role: 'user', content: 'word '.repeat(100_000) }];
// An answer to this goes on for as long as the context lasts, if it may not end: a client can leave in its midst.
export const ENDLESS = { ignore_eos: true };

// The server that is asked, as its operator sees it.
export class Server {
  constructor(baseURL, apiKey, model) {
    Object.assign(this, { baseURL, apiKey, model, root: baseURL.replace(/\/v1\/?$/, '') });
  }

  // The sum of a metric's samples; of those that have `label`, as it is written, if one is given.
  async metric(name, label = '') {
    const page = await (await fetch(`${this.root}/metrics`)).text();
    const named = line => line.startsWith(`${name}{`) || line.startsWith(`${name} `);
    const lines = page.split('\n').filter(line => named(line) && line.includes(label));
    assert(lines.length > 0, `there is no metric ${name} with ${label}`);
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
  }

  // `leave` leaves an answer unfinished; the server must notice, and have nothing left to do.
  async seesAClientLeave(leave) {
    const cancelled = ['hesper_requests_finished_total', 'outcome="cancelled"'];
    const before = await this.metric(...cancelled);
    await leave();
    let left, busy;
    for (const end = Date.now() + 5000; Date.now() < end; await sleep(20)) {
      busy = (await this.metric('hesper_requests_running')) + (await this.metric('hesper_requests_waiting'));
      left = (await this.metric(...cancelled)) - before;
      if (left === 1 && busy === 0) return;
    }
    assert.fail(`after 5 s: ${left} cancelled, ${busy} under way`);
  }
}

// A server before the server: it answers the first request with `status`, and passes on the others. `use` gets its address,
// which ends in /v1, and a list of the times at which requests came.
async function failingOnce(server, status, headers, use) {
  const times = [];
  const proxy = http.createServer((request, response) => {
    times.push(performance.now());
    if (times.length === 1) {
      request.resume();
      const error = { message: 'once', type: 'server_error', param: null, code: null };
      response.writeHead(status, { ...headers, 'content-type': 'application/json' }).end(JSON.stringify({ error }));
      return;
    }
    const { host, connection, ...sent } = request.headers;
    const onward = http.request(server.root + request.url, { method: request.method, headers: sent }, reply => {
      response.writeHead(reply.statusCode, reply.headers);
      reply.pipe(response);
    });
    request.pipe(onward);
  });
  await new Promise(resolve => proxy.listen(0, '127.0.0.1', resolve));
  try {
    await use(`http://127.0.0.1:${proxy.address().port}/v1`, times);
  } finally {
    proxy.closeAllConnections();
    proxy.close();
  }
}

// `ask(baseURL, retries)` puts a question through a client. A 429 must be asked again when `retry-after` says so, and a 503
// too; without retries the first must fail.
export async function clientRetries(server, ask) {
  await failingOnce(server, 429, { 'retry-after': '1' }, async (baseURL, times) => {
    await ask(baseURL, 2);
    assert(times.length === 2 && times[1] - times[0] > 950 && times[1] - times[0] < 5000, String(times));
  });
  await failingOnce(server, 503, {}, async (baseURL, times) => {
    await ask(baseURL, 2);
    assert.equal(times.length, 2);
  });
  await failingOnce(server, 429, { 'retry-after': '1' }, async (baseURL, times) => {
    assert.equal((await raises(() => ask(baseURL, 0))).status, 429);
    assert.equal(times.length, 1);
  });
}

// The pieces of an answer that `ask` begins. Fails unless many come, and over the time that the answer takes: what gathers an
// answer and gives it out at its end fails every time; a machine that is busy elsewhere, hardly ever several times in a row.
export async function arrivesBitByBit(ask, attempts = 3) {
  const begin = performance.now();
  const [read, times] = [[], []];
  for await (const piece of await ask()) {
    read.push(piece);
    times.push(performance.now() - begin);
  }
  assert(times.length >= 50, `only ${times.length} pieces`);
  const [first, last] = [times[0], times.at(-1)];
  const early = times.filter(at => at < (first + last) / 2).length;
  if (last - first > last / 5 && early > times.length / 10) return read;
  assert(attempts > 1, `the first at ${first} ms, the last at ${last} ms, ${early} of ${times.length} before the middle`);
  return arrivesBitByBit(ask, attempts - 1);
}

// What `call` throws, as an error with `status`: the AI SDK calls it `statusCode`, and keeps the last of several attempts.
export async function raises(call) {
  let answer;
  try {
    answer = await call();
  } catch (error) {
    const last = error.lastError ?? error;
    last.status ??= last.statusCode;
    return last;
  }
  return assert.fail(`answered, where an error was due: ${JSON.stringify(answer)}`);
}

export async function main(checks) {
  const [baseURL, apiKey] = process.argv.slice(2);
  if (!apiKey) {
    console.error('usage: node SCRIPT BASE_URL KEY');
    process.exit(2);
  }
  const models = await fetch(`${baseURL}/models`, { headers: { authorization: `Bearer ${apiKey}` } });
  const server = new Server(baseURL, apiKey, (await models.json()).data[0].id);
  for (const check of checks) {
    await check(server);
    console.log(`ok: ${check.name.replace(/([A-Z])/g, ' $1').toLowerCase()}`);
  }
}
