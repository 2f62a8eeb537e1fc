// Runs a client's checks and prints a line of JSON for each: {"name", "ok", "error"}.
//   BASE_URL  the service, without /v1
//   MODEL     the model's id
import assert from 'node:assert/strict';

export const BASE_URL = process.env.BASE_URL;
export const MODEL = process.env.MODEL;
export const SUM = 'What is 2 + 3?';
export const COUNT = 'Count from 1 to 30.';
export const WEATHER = 'What is the weather in Paris? Use get_weather.';
export const PERSON = 'Give me a JSON object with name and age';

const TIMEOUT_MS = 300_000;

export function user(content) {
  return { role: 'user', content };
}

/** Everything that an asynchronous iterable yields. */
export async function all(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

/** The one element of a list. */
export function only(items) {
  assert.equal(items.length, 1, JSON.stringify(items));
  return items[0];
}

function deadline() {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`not done after ${TIMEOUT_MS / 1000} s`)), TIMEOUT_MS).unref();
  });
}

/** Runs the functions of `checks` one after another; their names are the checks' names. */
export async function run(checks) {
  process.on('unhandledRejection', (error) => {
    console.error('unhandled rejection', error);
    process.exitCode = 1;
  });
  for (const [name, check] of Object.entries(checks)) {
    let error = null;
    try {
      await Promise.race([check(), deadline()]);
    } catch (problem) {
      error = String(problem?.stack ?? problem).slice(0, 4000);
    }
    console.log(JSON.stringify({ name, ok: error === null, error }));
  }
  process.exit();
}
