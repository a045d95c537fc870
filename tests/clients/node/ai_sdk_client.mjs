// Exercises a Hesper server that serves the demo model through Vercel's AI SDK: the provider for compatible servers, which
// uses chat completions, and OpenAI's own, which uses responses.
//
// Usage: node ai_sdk_client.mjs BASE_URL KEY

import assert from 'node:assert/strict';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { Output, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from 'ai';
import { z } from 'zod';
import { DAKAR, ENDLESS, GREETING, NORWAY, OVERLONG, arrivesBitByBit, clientRetries, main, raises } from './support.mjs';

const Weather = z.object({ city: z.enum(['Oslo', 'Dakar']), sky: z.enum(['clear', 'rain']), windy: z.boolean() });
const getTime = tool({
  inputSchema: z.object({ city: z.string().describe('City name') }),
  execute: async ({ city }) => ({ time: '12:01', city }),
});

// The provider passes on, as fields of the request, what stands under its name in `providerOptions`.
const compatible = (server, options) =>
  createOpenAICompatible({
    name: 'hesper', baseURL: server.baseURL, apiKey: server.apiKey, includeUsage: true, supportsStructuredOutputs: true, ...options,
  })(options?.model ?? server.model);

const ask = (server, fields) =>
  ({ model: compatible(server), messages: NORWAY, temperature: 0, maxOutputTokens: 200, maxRetries: 0, ...fields });

async function textIsGenerated(server) {
  const { text, finishReason, usage } = await generateText(ask(server, {}));
  assert.deepEqual([text, finishReason], ['Oslo.', 'stop']);
  assert(usage.inputTokens > 5 && usage.totalTokens === usage.inputTokens + usage.outputTokens, JSON.stringify(usage));
}

async function textIsStreamedBitByBit(server) {
  const endless = ask(server, { messages: GREETING, providerOptions: { hesper: ENDLESS } });
  let result;
  const pieces = await arrivesBitByBit(() => (result = streamText(endless)).textStream);
  assert.equal(pieces.join(''), (await generateText(endless)).text);
  assert.equal((await result.usage).outputTokens, 200);
  assert.equal(await result.finishReason, 'length');
}

async function aSeedGivesTheSameAgain(server) {
  const fields = ask(server, { messages: GREETING, temperature: 1.2, seed: 7, maxOutputTokens: 12 });
  assert.equal((await generateText(fields)).text, (await generateText(fields)).text);
}

async function aToolIsCalledAndItsResultUsed(server) {
  const fields = ask(server, { messages: DAKAR, tools: { get_time: getTime }, stopWhen: stepCountIs(3) });
  const { steps, text } = await generateText(fields);
  assert.deepEqual(steps[0].toolCalls.map(call => [call.toolName, call.input]), [['get_time', { city: 'Dakar' }]]);
  assert.match(text, /12:01/);
}

async function argumentsAreStreamed(server) {
  const { execute, ...declared } = getTime;
  let pieces = 0, call = null;
  for await (const part of streamText(ask(server, { messages: DAKAR, tools: { get_time: declared } })).fullStream) {
    pieces += part.type === 'tool-input-delta' ? 1 : 0;
    if (part.type === 'tool-call') call = part;
  }
  assert.deepEqual([call?.toolName, call?.input], ['get_time', { city: 'Dakar' }]);
  assert(pieces > 1, `${pieces} pieces`);
}

async function aCallCanBeRequiredOrNamed(server) {
  const setAlarm = tool({ inputSchema: z.object({ hour: z.int().min(0).max(23), on: z.boolean() }) });
  for (const toolChoice of ['required', { type: 'tool', toolName: 'set_alarm' }]) {
    const { toolCalls } = await generateText(ask(server, { messages: DAKAR, tools: { set_alarm: setAlarm }, toolChoice }));
    assert(toolCalls.length > 0 && toolCalls.every(call => call.toolName === 'set_alarm' && !call.invalid), JSON.stringify(toolCalls));
  }
}

async function objectsKeepTheirSchema(server) {
  Weather.parse((await generateObject(ask(server, { schema: Weather }))).object);
  Weather.parse((await generateText(ask(server, { output: Output.object({ schema: Weather }) }))).output);
  const result = streamObject(ask(server, { schema: Weather }));
  let partial = 0;
  for await (const part of result.partialObjectStream) partial += Object.keys(part).length < 3 ? 1 : 0;
  assert(partial > 0, 'the object comes in pieces');
  Weather.parse(await result.object);
}

async function openaisProviderAnswersToo(server) {
  const provider = createOpenAI({ baseURL: server.baseURL, apiKey: server.apiKey });
  for (const model of [provider(server.model), provider.chat(server.model)]) {
    assert.equal((await generateText(ask(server, { model }))).text, 'Oslo.');
    Weather.parse((await generateObject(ask(server, { model, schema: Weather }))).object);
    const fields = ask(server, { model, messages: DAKAR, tools: { get_time: getTime }, stopWhen: stepCountIs(3) });
    assert.match(await streamText(fields).text, /12:01/);
  }
}

async function errorsReachTheCaller(server) {
  const failure = fields => raises(() => generateText(ask(server, fields)));
  const wrong = await failure({ temperature: 3 });
  assert.equal(wrong.status, 400);
  assert.equal(JSON.parse(wrong.responseBody).error.param, 'temperature');
  assert.match((await failure({ providerOptions: { hesper: { temprature: 1 } } })).message, /temprature/);
  const overlong = await failure({ messages: OVERLONG });
  assert.equal(JSON.parse(overlong.responseBody).error.code, 'context_length_exceeded');
  assert.equal((await failure({ model: compatible(server, { model: 'gpt-4o' }) })).status, 404);
  assert.equal((await failure({ model: compatible(server, { apiKey: 'wrong' }) })).status, 401);
}

async function failuresAreTriedAgain(server) {
  await clientRetries(server, async (baseURL, maxRetries) => {
    const { text } = await generateText(ask(server, { model: compatible(server, { baseURL }), maxRetries }));
    assert.equal(text, 'Oslo.');
  });
}

async function aClientThatLeavesFreesTheServer(server) {
  const endless = ask(server, { messages: GREETING, maxOutputTokens: undefined, providerOptions: { hesper: ENDLESS } });
  await server.seesAClientLeave(async () => {
    const leave = new AbortController();
    for await (const part of streamText({ ...endless, abortSignal: leave.signal }).fullStream) {
      if (part.type === 'text-delta') leave.abort();
    }
  });
  await server.seesAClientLeave(() => raises(() => generateText({ ...endless, abortSignal: AbortSignal.timeout(300) })));
}

await main([
  textIsGenerated,
  textIsStreamedBitByBit,
  aSeedGivesTheSameAgain,
  aToolIsCalledAndItsResultUsed,
  argumentsAreStreamed,
  aCallCanBeRequiredOrNamed,
  objectsKeepTheirSchema,
  openaisProviderAnswersToo,
  errorsReachTheCaller,
  failuresAreTriedAgain,
  aClientThatLeavesFreesTheServer,
]);
