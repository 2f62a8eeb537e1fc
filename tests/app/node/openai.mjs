// The `openai` package: Chat Completions, Responses and models.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat, zodResponsesFunction, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { BASE_URL, COUNT, MODEL, PERSON, SUM, WEATHER, all, only, run, user } from './checks.mjs';

const client = new OpenAI({ baseURL: `${BASE_URL}/v1`, apiKey: 'none', maxRetries: 0 });
const Person = z.object({ name: z.string().max(20), age: z.number().int().min(0).max(99) });
const Place = z.object({ city: z.string() });
const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
const chatTool = {
  type: 'function',
  function: { name: 'get_weather', description: 'Get the weather of a city.', parameters },
};
const tool = {
  type: 'function', name: 'get_weather', description: 'Get the weather of a city.', parameters, strict: true,
};
const greedy = { model: MODEL, temperature: 0 };

/** The error that a promise ends with. */
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('it was accepted');
}

await run({
  async models() {
    assert.deepEqual((await all(client.models.list())).map((model) => model.id), [MODEL]);
    const model = await client.models.retrieve(MODEL);
    assert.equal(model.id, MODEL);
    assert.equal(model.object, 'model');
    const error = await failure(client.models.retrieve('missing/model'));
    assert.ok(error instanceof OpenAI.NotFoundError, String(error));
  },

  async chat() {
    const completion = await client.chat.completions.create({ ...greedy, messages: [user(SUM)] });
    assert.equal(completion.object, 'chat.completion');
    const { message, finish_reason } = only(completion.choices);
    assert.equal(finish_reason, 'stop');
    assert.match(message.content, /5/);
    assert.equal(message.role, 'assistant');
    assert.ok(message.reasoning);
    assert.ok(completion.usage.completion_tokens_details.reasoning_tokens > 0);
  },

  async chat_stream() {
    const whole = await client.chat.completions.create({ ...greedy, messages: [user(COUNT)] });
    const chunks = await all(await client.chat.completions.create({
      ...greedy, messages: [user(COUNT)], stream: true, stream_options: { include_usage: true },
    }));
    const text = chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.delta.content ?? '').join('');
    assert.equal(text, whole.choices[0].message.content);
    // What of the prompt was cached depends on what was asked before.
    const { prompt_tokens, completion_tokens, completion_tokens_details } = whole.usage;
    const usage = chunks.at(-1).usage;
    assert.equal(usage.prompt_tokens, prompt_tokens);
    assert.equal(usage.completion_tokens, completion_tokens);
    assert.deepEqual(usage.completion_tokens_details, completion_tokens_details);
    assert.equal(typeof usage.prompt_tokens_details.cached_tokens, 'number');
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  },

  async chat_stream_helper() {
    const stream = client.chat.completions.stream({ ...greedy, messages: [user(SUM)] });
    let text = '';
    stream.on('content', (delta) => { text += delta; });
    const completion = await stream.finalChatCompletion();
    assert.equal(completion.choices[0].message.content, text);
    assert.match(text, /5/);
  },

  async chat_run_tools() {
    const asked = [];
    const runner = client.chat.completions.runTools({
      ...greedy,
      messages: [user(WEATHER)],
      tools: [{
        type: 'function',
        function: {
          ...chatTool.function,
          parse: JSON.parse,
          function: ({ city }) => { asked.push(city); return 'sunny'; },
        },
      }],
    });
    assert.match(await runner.finalContent(), /sunny/);
    assert.deepEqual(asked, ['Paris']);
  },

  async chat_run_tools_streaming() {
    const asked = [];
    const runner = client.chat.completions.runTools({
      ...greedy,
      stream: true,
      messages: [user(WEATHER)],
      tools: [{
        type: 'function',
        function: {
          ...chatTool.function,
          parse: JSON.parse,
          function: ({ city }) => { asked.push(city); return 'sunny'; },
        },
      }],
    });
    assert.match(await runner.finalContent(), /sunny/);
    assert.deepEqual(asked, ['Paris']);
  },

  async chat_parse() {
    const completion = await client.chat.completions.parse({
      ...greedy,
      messages: [user(PERSON)],
      response_format: zodResponseFormat(Person, 'person'),
    });
    Person.parse(only(completion.choices).message.parsed);
  },

  async chat_parse_stream() {
    const stream = client.chat.completions.stream({
      ...greedy,
      messages: [user(PERSON)],
      response_format: zodResponseFormat(Person, 'person'),
    });
    Person.parse((await stream.finalChatCompletion()).choices[0].message.parsed);
  },

  async chat_parse_tool() {
    const completion = await client.chat.completions.parse({
      ...greedy,
      messages: [user(WEATHER)],
      tools: [zodFunction({ name: 'get_weather', parameters: Place, description: 'Get the weather of a city.' })],
    });
    const call = only(only(completion.choices).message.tool_calls);
    assert.deepEqual(call.function.parsed_arguments, { city: 'Paris' });
  },

  async chat_forced_tool() {
    for (const tool_choice of ['required', { type: 'function', function: { name: 'get_weather' } }]) {
      const completion = await client.chat.completions.create({
        ...greedy, messages: [user(WEATHER)], tools: [chatTool], tool_choice,
      });
      assert.equal(completion.choices[0].finish_reason, 'tool_calls');
      assert.equal(only(completion.choices[0].message.tool_calls).function.name, 'get_weather');
    }
  },

  async chat_n_and_logprobs() {
    const completion = await client.chat.completions.create({
      model: MODEL, messages: [user(SUM)], n: 2, seed: 3, logprobs: true, top_logprobs: 2,
    });
    assert.deepEqual(completion.choices.map((choice) => choice.index), [0, 1]);
    for (const choice of completion.choices) {
      const joined = choice.logprobs.content.map((token) => token.token).join('');
      assert.equal(joined, choice.message.content);
    }
  },

  async responses() {
    const response = await client.responses.create({ ...greedy, input: SUM });
    assert.equal(response.object, 'response');
    assert.equal(response.status, 'completed');
    assert.match(response.output_text, /5/);
    assert.deepEqual(response.output.map((item) => item.type), ['reasoning', 'message']);
    assert.equal(response.error, null);
    assert.equal(response.incomplete_details, null);
    assert.deepEqual(response.tools, []);
    assert.equal(response.tool_choice, 'auto');
    assert.equal(response.parallel_tool_calls, true);
    assert.equal(response.text.format.type, 'text');
    assert.ok(response.usage.output_tokens_details.reasoning_tokens > 0);
    assert.equal(typeof response.usage.input_tokens_details.cached_tokens, 'number');
  },

  async responses_events() {
    const events = await all(await client.responses.create({ ...greedy, input: SUM, stream: true }));
    assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
    const types = events.map((event) => event.type);
    assert.deepEqual(types.slice(0, 2), ['response.created', 'response.in_progress']);
    assert.equal(types.at(-1), 'response.completed');
    for (const type of [
      'response.output_item.added', 'response.output_item.done', 'response.content_part.added',
      'response.content_part.done', 'response.reasoning_text.delta', 'response.reasoning_text.done',
      'response.output_text.delta', 'response.output_text.done',
    ]) assert.ok(types.includes(type), type);
    const done = events.filter((event) => event.type === 'response.output_item.done').map((event) => event.item);
    assert.deepEqual(done, events.at(-1).response.output);
    for (const event of events) {
      if (event.item_id !== undefined) assert.equal(event.item_id, done[event.output_index].id);
      if (event.response !== undefined) assert.equal(event.response.id, events[0].response.id);
    }
    const texts = events.filter((event) => event.type === 'response.output_text.delta');
    for (const event of texts) assert.ok(Array.isArray(event.logprobs));
  },

  async responses_stream_helper() {
    const stream = client.responses.stream({ ...greedy, input: SUM });
    let text = '';
    stream.on('response.output_text.delta', (event) => { text += event.delta; });
    const response = await stream.finalResponse();
    assert.equal(response.status, 'completed');
    assert.equal(response.output_text, text);
    assert.match(text, /5/);
  },

  async responses_stream_with_call() {
    const stream = client.responses.stream({ ...greedy, input: WEATHER, tools: [tool] });
    const response = await stream.finalResponse();
    const call = only(response.output.filter((item) => item.type === 'function_call'));
    assert.deepEqual(JSON.parse(call.arguments), { city: 'Paris' });
    assert.equal(call.status, 'completed');
  },

  async responses_parse() {
    const response = await client.responses.parse({
      ...greedy, input: PERSON, text: { format: zodTextFormat(Person, 'person') },
    });
    Person.parse(response.output_parsed);
    assert.equal(response.text.format.name, 'person');
  },

  async responses_parse_stream() {
    const stream = client.responses.stream({
      ...greedy, input: PERSON, text: { format: zodTextFormat(Person, 'person') },
    });
    Person.parse((await stream.finalResponse()).output_parsed);
  },

  async responses_parse_tool() {
    const response = await client.responses.parse({
      ...greedy,
      input: WEATHER,
      tools: [zodResponsesFunction({
        name: 'get_weather', parameters: Place, description: 'Get the weather of a city.',
      })],
    });
    const call = only(response.output.filter((item) => item.type === 'function_call'));
    assert.deepEqual(call.parsed_arguments, { city: 'Paris' });
  },

  async responses_call_and_result() {
    const input = [user(WEATHER)];
    const first = await client.responses.create({ ...greedy, input, tools: [tool], store: false });
    const call = only(first.output.filter((item) => item.type === 'function_call'));
    assert.equal(call.name, 'get_weather');
    assert.ok(first.output.some((item) => item.type === 'reasoning'));
    input.push(...first.output);
    input.push({ type: 'function_call_output', call_id: call.call_id, output: 'sunny' });
    const second = await client.responses.create({ ...greedy, input, tools: [tool], store: false });
    assert.match(second.output_text, /sunny/);
    input.push(...second.output, user(SUM));
    const third = await client.responses.create({ ...greedy, input, tools: [tool], store: false });
    assert.equal(third.status, 'completed');
  },

  async responses_encrypted_reasoning() {
    const include = ['reasoning.encrypted_content'];
    const input = [user(WEATHER)];
    const first = await client.responses.create({ ...greedy, input, tools: [tool], store: false, include });
    const call = only(first.output.filter((item) => item.type === 'function_call'));
    const reasoning = only(first.output.filter((item) => item.type === 'reasoning'));
    assert.ok(reasoning.encrypted_content);
    const sealed = { type: 'reasoning', id: reasoning.id, summary: [], encrypted_content: reasoning.encrypted_content };
    input.push(sealed, call, { type: 'function_call_output', call_id: call.call_id, output: 'sunny' });
    const second = await client.responses.create({ ...greedy, input, tools: [tool], store: false, include });
    assert.match(second.output_text, /sunny/);
  },

  async responses_incomplete() {
    const limit = { ...greedy, input: COUNT, max_output_tokens: 20 };
    const response = await client.responses.create(limit);
    assert.equal(response.status, 'incomplete');
    assert.equal(response.incomplete_details.reason, 'max_output_tokens');
    const events = await all(await client.responses.create({ ...limit, stream: true }));
    assert.equal(events.at(-1).type, 'response.incomplete');
    assert.equal(events.at(-1).response.status, 'incomplete');
  },

  async responses_input_tokens() {
    const count = await client.responses.inputTokens.count({ model: MODEL, input: SUM });
    assert.equal(count.object, 'response.input_tokens');
    const response = await client.responses.create({ ...greedy, input: SUM });
    assert.equal(count.input_tokens, response.usage.input_tokens);
  },

  async errors() {
    const noModel = await failure(client.chat.completions.create({ model: 'missing', messages: [user(SUM)] }));
    assert.ok(noModel instanceof OpenAI.NotFoundError, String(noModel));
    assert.equal(noModel.code, 'model_not_found');
    assert.equal(noModel.param, 'model');
    const wrongField = await failure(client.chat.completions.create({
      model: MODEL, messages: [user(SUM)], temperature: 'hot',
    }));
    assert.ok(wrongField instanceof OpenAI.BadRequestError, String(wrongField));
    assert.equal(wrongField.type, 'invalid_request_error');
    assert.equal(wrongField.param, 'temperature');
    const tooLong = await failure(client.responses.create({ model: MODEL, input: 'hello '.repeat(40_000) }));
    assert.ok(tooLong instanceof OpenAI.BadRequestError, String(tooLong));
    assert.equal(tooLong.code, 'context_length_exceeded');
    const stream = await failure(client.responses.create({ model: MODEL, input: [{ role: 'nobody' }], stream: true }));
    assert.ok(stream instanceof OpenAI.BadRequestError, String(stream));
    assert.match(stream.param, /^input/);
  },

  async abort() {
    const stream = await client.chat.completions.create({ ...greedy, messages: [user(COUNT)], stream: true });
    let seen = 0;
    for await (const _ of stream) {
      seen += 1;
      if (seen === 3) stream.controller.abort();
    }
    assert.equal(seen, 3);
    const completion = await client.chat.completions.create({ ...greedy, messages: [user(SUM)] });
    assert.match(completion.choices[0].message.content, /5/);
  },
});
