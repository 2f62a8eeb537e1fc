// The `@anthropic-ai/sdk` package.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import { BASE_URL, COUNT, MODEL, SUM, WEATHER, all, only, run, user } from './checks.mjs';

const client = new Anthropic({ baseURL: BASE_URL, apiKey: 'none', maxRetries: 0 });
const greedy = { model: MODEL, max_tokens: 300, temperature: 0 };
const thinking = { type: 'enabled', budget_tokens: 1024 };
const tools = [{
  name: 'get_weather',
  description: 'Get the weather of a city.',
  input_schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
}];

function text(message) {
  return message.content.filter((block) => block.type === 'text').map((block) => block.text).join('');
}

/** All tokens of the prompt, wherever they came from. */
function promptTokens({ usage }) {
  return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens;
}

await run({
  async create() {
    const message = await client.messages.create({ ...greedy, messages: [user(SUM)] });
    assert.match(message.id, /^msg_/);
    assert.equal(message.type, 'message');
    assert.equal(message.stop_reason, 'end_turn');
    assert.equal(message.stop_sequence, null);
    assert.match(text(message), /5/);
    assert.deepEqual(message.content.map((block) => block.type), ['text']);
    assert.equal(typeof message.usage.cache_read_input_tokens, 'number');
    assert.ok(message._request_id);
  },

  async stream() {
    const whole = await client.messages.create({ ...greedy, messages: [user(COUNT)] });
    const stream = client.messages.stream({ ...greedy, messages: [user(COUNT)] });
    let seen = '';
    stream.on('text', (delta) => { seen += delta; });
    const message = await stream.finalMessage();
    assert.equal(seen, text(whole));
    assert.deepEqual(message.content, whole.content);
    assert.equal(message.stop_reason, whole.stop_reason);
    assert.equal(message.usage.output_tokens, whole.usage.output_tokens);
    assert.equal(promptTokens(message), promptTokens(whole));
  },

  async events() {
    const events = await all(await client.messages.create({ ...greedy, messages: [user(SUM)], stream: true }));
    const types = events.map((event) => event.type).filter((type) => type !== 'ping');
    assert.equal(types[0], 'message_start');
    assert.deepEqual(types.slice(-3), ['content_block_stop', 'message_delta', 'message_stop']);
  },

  async thinking() {
    const settings = { ...greedy, max_tokens: 2048, thinking, temperature: 1 };
    const message = await client.messages.create({ ...settings, messages: [user(SUM)] });
    assert.deepEqual(message.content.map((block) => block.type), ['thinking', 'text']);
    assert.ok(message.content[0].signature);
    const stream = client.messages.stream({ ...settings, messages: [user(SUM)] });
    const streamed = await stream.finalMessage();
    assert.deepEqual(streamed.content.map((block) => block.type), ['thinking', 'text']);
    assert.ok(streamed.content[0].signature);
    const next = await client.messages.create({
      ...settings,
      messages: [user(SUM), { role: 'assistant', content: message.content }, user(SUM)],
    });
    assert.ok(text(next));
  },

  async tool_and_result() {
    const messages = [user(WEATHER)];
    const first = await client.messages.create({ ...greedy, messages, tools });
    assert.equal(first.stop_reason, 'tool_use');
    const call = only(first.content.filter((block) => block.type === 'tool_use'));
    assert.match(call.id, /^toolu_/);
    assert.deepEqual([call.name, call.input], ['get_weather', { city: 'Paris' }]);
    messages.push({ role: 'assistant', content: first.content });
    messages.push(user([{ type: 'tool_result', tool_use_id: call.id, content: [{ type: 'text', text: 'sunny' }] }]));
    const second = await client.messages.create({ ...greedy, messages, tools });
    assert.equal(second.stop_reason, 'end_turn');
    assert.match(text(second), /sunny/);
  },

  async forced_tool() {
    for (const tool_choice of [{ type: 'any' }, { type: 'tool', name: 'get_weather' }]) {
      const message = await client.messages.create({ ...greedy, messages: [user(WEATHER)], tools, tool_choice });
      assert.equal(message.stop_reason, 'tool_use');
      const call = only(message.content.filter((block) => block.type === 'tool_use'));
      assert.equal(call.name, 'get_weather');
      assert.equal(typeof call.input, 'object');
    }
  },

  async forced_tool_stream() {
    const stream = client.messages.stream({
      ...greedy, messages: [user(WEATHER)], tools, tool_choice: { type: 'tool', name: 'get_weather' },
    });
    const message = await stream.finalMessage();
    assert.equal(message.stop_reason, 'tool_use');
    assert.equal(message.content.at(-1).type, 'tool_use');
  },

  async tool_runner() {
    const asked = [];
    const message = await client.beta.messages.toolRunner({
      ...greedy,
      messages: [user(WEATHER)],
      tools: [{ ...tools[0], run: async ({ city }) => { asked.push(city); return 'sunny'; } }],
    });
    assert.deepEqual(asked, ['Paris']);
    assert.match(text(message), /sunny/);
  },

  async stop_sequence() {
    const message = await client.messages.create({ ...greedy, messages: [user(COUNT)], stop_sequences: ['9'] });
    assert.equal(message.stop_reason, 'stop_sequence');
    assert.equal(message.stop_sequence, '9');
    assert.ok(!text(message).includes('9'));
  },

  async count_tokens() {
    const count = await client.messages.countTokens({ model: MODEL, messages: [user(SUM)] });
    const message = await client.messages.create({ ...greedy, messages: [user(SUM)] });
    assert.equal(count.input_tokens, promptTokens(message));
  },

  async errors() {
    const wrong = await client.messages.create({ ...greedy, messages: [] }).catch((error) => error);
    assert.ok(wrong instanceof Anthropic.BadRequestError, String(wrong));
    assert.equal(wrong.error.type, 'error');
    assert.equal(wrong.error.error.type, 'invalid_request_error');
    assert.ok(wrong.requestID);
    const missing = await client.messages.create({ ...greedy, model: 'missing', messages: [user(SUM)] })
      .catch((error) => error);
    assert.ok(missing instanceof Anthropic.NotFoundError, String(missing));
    assert.equal(missing.error.error.type, 'not_found_error');
  },

  async models() {
    assert.ok((await all(client.models.list())).some((model) => model.id === MODEL));
  },
});
