// The `@openai/agents` package, over Responses and over Chat Completions.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import {
  Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, setTracingDisabled, tool, user,
} from '@openai/agents';
import { z } from 'zod';
import { BASE_URL, MODEL, PERSON, SUM, WEATHER, all, run } from './checks.mjs';

setTracingDisabled(true);
const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: 'none', maxRetries: 0 });
const runner = new Runner({ tracingDisabled: true });
const Person = z.object({ name: z.string().max(20), age: z.number().int().min(0).max(99) });

/** Every check with one of the two kinds of model. */
function checks(api, model) {
  function agent(settings = {}) {
    return new Agent({ name: 'agent', model, modelSettings: { temperature: 0 }, ...settings });
  }

  function weather(asked) {
    return tool({
      name: 'get_weather',
      description: 'Get the weather of a city.',
      parameters: z.object({ city: z.string() }),
      execute: async ({ city }) => { asked.push(city); return 'sunny'; },
    });
  }

  return {
    async [`${api}_answer`]() {
      const result = await runner.run(agent({ instructions: 'Be brief.' }), SUM);
      assert.match(result.finalOutput, /5/);
      assert.ok(result.rawResponses[0].usage.outputTokens > 0);
    },

    async [`${api}_tool`]() {
      const asked = [];
      const result = await runner.run(agent({ tools: [weather(asked)] }), WEATHER, { maxTurns: 3 });
      assert.deepEqual(asked, ['Paris']);
      assert.match(result.finalOutput, /sunny/);
    },

    async [`${api}_stream`]() {
      const asked = [];
      const stream = await runner.run(agent({ tools: [weather(asked)] }), WEATHER, { stream: true, maxTurns: 3 });
      const text = (await all(stream.toTextStream())).join('');
      await stream.completed;
      assert.deepEqual(asked, ['Paris']);
      assert.match(text, /sunny/);
      assert.ok(text.endsWith(stream.finalOutput));
    },

    async [`${api}_structured`]() {
      const result = await runner.run(agent({ outputType: Person }), PERSON);
      Person.parse(result.finalOutput);
    },

    async [`${api}_structured_stream`]() {
      const stream = await runner.run(agent({ outputType: Person }), PERSON, { stream: true });
      await stream.completed;
      Person.parse(stream.finalOutput);
    },

    async [`${api}_turns`]() {
      const asked = [];
      const one = agent({ tools: [weather(asked)] });
      const first = await runner.run(one, WEATHER, { maxTurns: 3 });
      const second = await runner.run(one, [...first.history, user(WEATHER)], { maxTurns: 3 });
      assert.ok(second.finalOutput);
      assert.ok(second.history.length > first.history.length + 1);
    },

    async [`${api}_handoff`]() {
      const target = agent({ name: 'adder', handoffDescription: 'Adds numbers' });
      const first = agent({
        name: 'first', handoffs: [target], modelSettings: { temperature: 0, toolChoice: 'transfer_to_adder' },
      });
      const result = await runner.run(first, SUM, { maxTurns: 3 });
      assert.equal(result.lastAgent.name, 'adder');
      assert.ok(result.finalOutput);
    },
  };
}

await run({
  ...checks('responses', new OpenAIResponsesModel(client, MODEL)),
  ...checks('chat', new OpenAIChatCompletionsModel(client, MODEL)),
});
