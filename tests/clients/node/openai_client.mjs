// Exercises a Hesper server that serves the demo model through the `openai` client for Node.
//
// Usage: node openai_client.mjs BASE_URL KEY

import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { DAKAR, ENDLESS, GREETING, NORWAY, OVERLONG, arrivesBitByBit, clientRetries, main, raises } from './support.mjs';

const Weather = z.object({ city: z.enum(['Oslo', 'Dakar']), sky: z.enum(['clear', 'rain']), windy: z.boolean() });
const getTime = {
  type: 'function',
  function: {
    name: 'get_time',
    parameters: { type: 'object', properties: { city: { type: 'string', description: 'City name' } }, required: ['city'] },
  },
};
const setAlarm = zodFunction({ name: 'set_alarm', parameters: z.object({ hour: z.int().min(0).max(23), on: z.boolean() }) });

const client = (server, options) =>
  new OpenAI({ baseURL: server.baseURL, apiKey: server.apiKey, timeout: 60_000, maxRetries: 0, ...options });

const chat = (server, fields, options) =>
  client(server).chat.completions.create(
    { model: server.model, messages: NORWAY, temperature: 0, max_tokens: 200, ...fields },
    options,
  );

async function modelsAreListed(server) {
  const models = [];
  for await (const model of client(server).models.list()) models.push(model.id);
  assert(models.includes(server.model));
  assert.equal((await client(server).models.retrieve(server.model)).object, 'model');
}

async function aChatIsAnswered(server) {
  const answer = await chat(server, { logprobs: true, top_logprobs: 2 });
  const [choice] = answer.choices;
  assert.equal(choice.message.content, 'Oslo.');
  assert.equal(choice.finish_reason, 'stop');
  assert.equal(choice.logprobs.content.map(token => token.token).join(''), 'Oslo.');
  assert.equal(choice.logprobs.content[0].top_logprobs.length, 2);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
}

async function aStreamComesBitByBitWithItsUsage(server) {
  const fields = { messages: GREETING, ...ENDLESS };
  const whole = await chat(server, fields);
  const streamed = { ...fields, stream: true, stream_options: { include_usage: true } };
  const chunks = await arrivesBitByBit(() => chat(server, streamed));
  assert.equal(chunks.map(chunk => chunk.choices[0]?.delta.content ?? '').join(''), whole.choices[0].message.content);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 200);
  assert(chunks.slice(0, -1).every(chunk => chunk.usage === null));
}

async function seedsGiveTheSameChoicesAgain(server) {
  const fields = { messages: GREETING, n: 3, seed: 7, temperature: 1.2, max_tokens: 12 };
  const [first, again] = await Promise.all([chat(server, fields), chat(server, fields)]);
  const contents = answer => answer.choices.map(choice => choice.message.content);
  assert.equal(first.choices.length, 3);
  assert.deepEqual(contents(first), contents(again));
}

async function aToolIsCalledAndItsResultUsed(server) {
  const runner = client(server).chat.completions.runTools({
    model: server.model,
    messages: DAKAR,
    temperature: 0,
    tools: [{
      type: 'function',
      function: { ...getTime.function, parse: JSON.parse, function: ({ city }) => JSON.stringify({ time: '12:01', city }) },
    }],
  });
  const final = await runner.finalContent();
  const call = runner.messages.find(message => message.tool_calls)?.tool_calls[0];
  assert.equal(call.function.name, 'get_time');
  assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Dakar' });
  assert.match(final, /12:01/);
}

async function argumentsAreStreamed(server) {
  let [name, written, pieces] = [null, '', 0];
  for await (const chunk of await chat(server, { messages: DAKAR, tools: [getTime], stream: true })) {
    for (const delta of chunk.choices[0]?.delta.tool_calls ?? []) {
      name ??= delta.function.name;
      written += delta.function.arguments ?? '';
      pieces += delta.function.arguments ? 1 : 0;
    }
  }
  assert.deepEqual([name, JSON.parse(written)], ['get_time', { city: 'Dakar' }]);
  assert(pieces > 1, `${pieces} pieces`);
}

async function aCallCanBeRequiredOrNamed(server) {
  for (const choice of ['required', { type: 'function', function: { name: 'set_alarm' } }]) {
    const answer = await client(server).chat.completions.parse(
      { model: server.model, messages: DAKAR, temperature: 0, tools: [setAlarm], tool_choice: choice });
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(call.function.name, 'set_alarm');
    assert(Number.isInteger(call.function.parsed_arguments.hour), JSON.stringify(call));
  }
}

async function aSchemaIsKeptAndParsed(server) {
  const fields = { model: server.model, messages: NORWAY, response_format: zodResponseFormat(Weather, 'weather') };
  const answer = await client(server).chat.completions.parse({ ...fields, temperature: 1.5, seed: 3 });
  Weather.parse(answer.choices[0].message.parsed);
  const stream = client(server).chat.completions.stream({ ...fields, temperature: 0 });
  Weather.parse((await stream.finalChatCompletion()).choices[0].message.parsed);
}

async function responsesAnswerToo(server) {
  const { responses } = client(server);
  const fields = { model: server.model, input: NORWAY, temperature: 0 };
  const first = await responses.create(fields);
  assert.equal(first.output_text, 'Oslo.');
  const next = await responses.create({ ...fields, input: 'What is the capital of Japan?', previous_response_id: first.id });
  assert.equal(next.output_text, 'Tokyo.');
  const parsed = await responses.parse({ ...fields, text: { format: zodTextFormat(Weather, 'weather') } });
  Weather.parse(parsed.output_parsed);
  let text = '';
  const stream = await responses.create({ ...fields, stream: true });
  for await (const event of stream) if (event.type === 'response.output_text.delta') text += event.delta;
  assert.equal(text, 'Oslo.');
}

async function chatCompletionsAreStored(server) {
  const { completions } = client(server).chat;
  const kept = await chat(server, { store: true, metadata: { from: 'node' } });
  assert.equal((await completions.retrieve(kept.id)).choices[0].message.content, 'Oslo.');
  const listed = [];
  for await (const entry of completions.list({ metadata: { from: 'node' } })) listed.push(entry.id);
  assert(listed.includes(kept.id));
  assert((await completions.delete(kept.id)).deleted);
  assert.equal((await raises(() => completions.retrieve(kept.id))).status, 404);
}

async function errorsNameTheField(server) {
  const failure = async fields => {
    const error = await raises(() => chat(server, fields));
    return [error.status, error.param, error.code];
  };
  assert.deepEqual((await failure({ temperature: 3 })).slice(0, 2), [400, 'temperature']);
  assert.deepEqual(await failure({ temprature: 1 }), [400, 'temprature', 'unknown_parameter']);
  assert.deepEqual(await failure({ messages: OVERLONG }), [400, 'messages', 'context_length_exceeded']);
  assert.deepEqual(await failure({ model: 'gpt-4o' }), [404, 'model', 'model_not_found']);
  const error = await raises(() => client(server, { apiKey: 'wrong' }).models.list());
  assert(error instanceof OpenAI.AuthenticationError && error.requestID, String(error));
}

async function failuresAreTriedAgain(server) {
  await clientRetries(server, async (baseURL, maxRetries) => {
    const asking = client(server, { baseURL, maxRetries });
    const answer = await asking.chat.completions.create({ model: server.model, messages: NORWAY, temperature: 0 });
    assert.equal(answer.choices[0].message.content, 'Oslo.');
  });
}

async function aClientThatLeavesFreesTheServer(server) {
  const fields = { messages: GREETING, max_tokens: undefined, ...ENDLESS };
  await server.seesAClientLeave(async () => {
    for await (const chunk of await chat(server, { ...fields, stream: true })) if (chunk.choices[0].delta.content) break;
  });
  await server.seesAClientLeave(async () => {
    const error = await raises(() => chat(server, fields, { signal: AbortSignal.timeout(300) }));
    assert(error instanceof OpenAI.APIUserAbortError, String(error));
  });
  await server.seesAClientLeave(async () => {
    const error = await raises(() => chat(server, fields, { timeout: 300 }));
    assert(error instanceof OpenAI.APIConnectionTimeoutError, String(error));
  });
}

await main([
  modelsAreListed,
  aChatIsAnswered,
  aStreamComesBitByBitWithItsUsage,
  seedsGiveTheSameChoicesAgain,
  aToolIsCalledAndItsResultUsed,
  argumentsAreStreamed,
  aCallCanBeRequiredOrNamed,
  aSchemaIsKeptAndParsed,
  responsesAnswerToo,
  chatCompletionsAreStored,
  errorsNameTheField,
  failuresAreTriedAgain,
  aClientThatLeavesFreesTheServer,
]);
