// The AI SDK: `ai` over @ai-sdk/openai (both APIs), @ai-sdk/openai-compatible and @ai-sdk/anthropic.
import assert from 'node:assert/strict';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';
import { BASE_URL, COUNT, MODEL, PERSON, SUM, WEATHER, all, run, user } from './checks.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;
const baseURL = `${BASE_URL}/v1`;
const openai = createOpenAI({ baseURL, apiKey: 'none' });
const compatible = createOpenAICompatible({
  name: 'gptoss', baseURL, apiKey: 'none', includeUsage: true, supportsStructuredOutputs: true,
});
const anthropic = createAnthropic({ baseURL, apiKey: 'none' });
const Person = z.object({ name: z.string().max(20), age: z.number().int().min(0).max(99) });

function weather(asked) {
  return tool({
    description: 'Get the weather of a city.',
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => { asked.push(city); return 'sunny'; },
  });
}

/** Every check with one provider's model; `settings` are sent with each request. */
function checks(api, model, settings = {}) {
  const greedy = { model, temperature: 0, maxRetries: 0, maxOutputTokens: 2000, ...settings };

  /** The parts of a stream; an error part is thrown. */
  async function parts(stream) {
    const found = await all(stream.fullStream);
    for (const part of found) if (part.type === 'error') throw part.error;
    return found;
  }

  return {
    async [`${api}_text`]() {
      const result = await generateText({ ...greedy, prompt: SUM, system: 'Be brief.' });
      assert.match(result.text, /5/);
      assert.equal(result.finishReason, 'stop');
      assert.ok(result.usage.inputTokens > 0 && result.usage.outputTokens > 0);
    },

    async [`${api}_stream`]() {
      const whole = await generateText({ ...greedy, prompt: COUNT });
      const stream = streamText({ ...greedy, prompt: COUNT });
      const found = await parts(stream);
      assert.equal(await stream.text, whole.text);
      assert.equal(await stream.finishReason, 'stop');
      assert.equal(await stream.reasoningText, whole.reasoningText);
      assert.ok(found.filter((part) => part.type === 'text-delta').length > 1);
      assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
    },

    async [`${api}_object`]() {
      const result = await generateText({ ...greedy, prompt: PERSON, output: Output.object({ schema: Person }) });
      Person.parse(result.output);
    },

    async [`${api}_object_stream`]() {
      const stream = streamText({ ...greedy, prompt: PERSON, output: Output.object({ schema: Person }) });
      const found = await all(stream.partialOutputStream);
      assert.ok(found.length > 0);
      Person.parse(await stream.output);
    },

    async [`${api}_tools`]() {
      const asked = [];
      const result = await generateText({
        ...greedy, prompt: WEATHER, tools: { get_weather: weather(asked) }, stopWhen: stepCountIs(3),
      });
      assert.deepEqual(asked, ['Paris']);
      assert.deepEqual(result.steps.map((step) => step.finishReason), ['tool-calls', 'stop']);
      assert.match(result.text, /sunny/);
    },

    async [`${api}_tools_stream`]() {
      const asked = [];
      const stream = streamText({
        ...greedy, prompt: WEATHER, tools: { get_weather: weather(asked) }, stopWhen: stepCountIs(3),
      });
      await parts(stream);
      assert.deepEqual(asked, ['Paris']);
      assert.deepEqual((await stream.steps).map((step) => step.finishReason), ['tool-calls', 'stop']);
      assert.match(await stream.text, /sunny/);
    },

    async [`${api}_forced_tool`]() {
      const asked = [];
      const result = await generateText({
        ...greedy,
        prompt: WEATHER,
        tools: { get_weather: weather(asked) },
        toolChoice: { type: 'tool', toolName: 'get_weather' },
      });
      assert.equal(asked.length, 1);
      assert.equal(result.finishReason, 'tool-calls');
    },

    async [`${api}_second_turn`]() {
      const asked = [];
      const tools = { get_weather: weather(asked) };
      const messages = [user(WEATHER)];
      const first = await generateText({ ...greedy, messages, tools, stopWhen: stepCountIs(3) });
      messages.push(...first.response.messages, user(WEATHER));
      const second = await generateText({ ...greedy, messages, tools, stopWhen: stepCountIs(3) });
      assert.ok(second.steps.length > 0);
      const stream = streamText({ ...greedy, messages, tools, stopWhen: stepCountIs(3) });
      await parts(stream);
      assert.equal(await stream.text, second.text);
    },

    async [`${api}_cut`]() {
      const result = await generateText({ ...greedy, maxOutputTokens: 20, prompt: COUNT });
      assert.equal(result.finishReason, 'length');
      const stream = streamText({ ...greedy, maxOutputTokens: 20, prompt: COUNT });
      await parts(stream);
      assert.equal(await stream.finishReason, 'length');
    },

    async [`${api}_error`]() {
      const error = await generateText({ ...greedy, prompt: 'hello '.repeat(40_000) }).catch((problem) => problem);
      assert.ok(APICallError.isInstance(error), String(error));
      assert.equal(error.statusCode, 400);
      assert.ok(error.message.length < 2000 && error.message !== 'Bad Request', error.message);
    },
  };
}

async function reasoning(model, settings) {
  const result = await generateText({ model, prompt: SUM, maxRetries: 0, ...settings });
  assert.ok(result.reasoningText);
  const stream = streamText({ model, prompt: SUM, maxRetries: 0, ...settings });
  assert.match(await stream.text, /5/);
  assert.ok(await stream.reasoningText);
}

const thinking = {
  maxOutputTokens: 1000, providerOptions: { anthropic: { thinking: { type: 'enabled', budgetTokens: 1024 } } },
};

await run({
  ...checks('responses', openai.responses(MODEL)),
  ...checks('chat', openai.chat(MODEL)),
  ...checks('compatible', compatible.chatModel(MODEL)),
  ...checks('anthropic', anthropic(MODEL)),
  async compatible_reasoning() {
    await reasoning(compatible.chatModel(MODEL), { temperature: 0 });
  },
  async anthropic_reasoning() {
    await reasoning(anthropic(MODEL), thinking);
  },
  async responses_sealed_reasoning() {
    // As for a model that reasons: items are named by id, or sealed where nothing is stored.
    const providerOptions = {
      openai: { forceReasoning: true, store: false, include: ['reasoning.encrypted_content'], reasoningEffort: 'low' },
    };
    const asked = [];
    const result = await generateText({
      model: openai.responses(MODEL),
      prompt: WEATHER,
      maxRetries: 0,
      tools: { get_weather: weather(asked) },
      stopWhen: stepCountIs(3),
      providerOptions,
    });
    assert.equal(asked.length, 1);
    assert.match(result.text, /sunny/);
  },
});
