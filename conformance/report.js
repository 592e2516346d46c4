// How a client of a suite tells the results of its cases: a line of JSON each.

'use strict';

function tell(name, error, note) {
  console.log(JSON.stringify({ case: name, error: error ?? null, note: note ?? '' }));
}

// Runs those of `cases` that are asked for, each to its end.
async function runCases(cases, asked, ...args) {
  for (const name of asked) {
    try {
      tell(name, null, await cases[name](...args));
    } catch (error) {
      console.error(error);
      tell(name, String(error.message ?? error).slice(0, 500));
    }
  }
}

function expect(wanted, found, what) {
  const [a, b] = [JSON.stringify(wanted), JSON.stringify(found)];
  if (a !== b) throw new Error(`${what}: expected ${a}, found ${b}`);
}

module.exports = { runCases, expect };
