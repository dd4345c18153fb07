// distillvq from Node, with Drizzle: schema.js declares the index, and drizzle-kit writes the migration.
//
//     cd docs/clients/node && npm ci
//     DATABASE_URL=postgresql://localhost/test npm run drizzle
//
// The migration creates the index on an empty table. VACUUM trains the index once the table has rows. The table
// "drizzle_notes" must not exist.

import assert from 'node:assert/strict';
import { asc, cosineDistance, sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import { check, query, rows } from './sample.js';
import { notes } from './schema.js';

const db = drizzle(process.env.DATABASE_URL);
for (let first = 0; first < rows.length; first += 1000) {
  await db.insert(notes).values(rows.slice(first, first + 1000));
}

// Autovacuum does this too, within a minute by default.
await db.execute(sql`VACUUM ANALYZE drizzle_notes`);
const info = await db.execute(
  sql`SELECT lists, exact_rows::integer FROM distillvq_index_info('drizzle_notes_embedding_idx')`,
);
const { lists, exact_rows: exactRows } = info.rows[0];
console.log(`the index is trained: ${lists} lists, ${exactRows} rows without a code`);
assert.ok(lists > 0);
assert.equal(exactRows, 0);

// Order by the distance, ascending. No index serves the order by similarity, desc(sql`1 - (${distance})`).
const distance = cosineDistance(notes.embedding, query);
const nearest = await db.select({ id: notes.id, distance }).from(notes).orderBy(asc(distance)).limit(10);
for (const note of nearest) {
  console.log(`note ${note.id} at ${note.distance.toFixed(3)}`);
}
check(nearest.map((note) => note.id));
await db.$client.end();
