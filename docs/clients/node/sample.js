// Sample data of the Node examples: embeddings in place of a language model's, and a check of search results.

import assert from 'node:assert/strict';

export const DIMENSIONS = 64;
const TOPICS = 50;
const ROWS = 5000;

// Mulberry32: Math.random() cannot be seeded.
let state = 5;
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}
const around = (center) => Array.from(center, (x) => Math.fround(x + 2 * random() - 1));

const centers = Array.from({ length: TOPICS }, () => around(new Float32Array(DIMENSIONS)));
export const rows = Array.from({ length: ROWS }, (_, id) => ({
  id,
  topic: id % TOPICS,
  embedding: around(centers[id % TOPICS]),
}));
export const query = around(centers[7]);

function cosineDistance(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return 1 - dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

// Fails unless the ids are the 10 nearest to the query by cosine distance. An approximate search may miss two of them.
export function check(found) {
  const distance = rows.map((row) => cosineDistance(row.embedding, query));
  const byDistance = (a, b) => distance[a] - distance[b];
  const nearest = rows.map((row) => row.id).sort(byDistance).slice(0, 10);
  assert.equal(found.length, 10);
  assert.ok(found.filter((id) => nearest.includes(id)).length >= 8, `found ${found}, not ${nearest}`);
  assert.deepEqual(found, found.toSorted(byDistance));
}
