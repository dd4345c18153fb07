// distillvq from Node, with node-postgres and pgvector-node.
//
//     cd docs/clients/node && npm ci
//     DATABASE_URL=postgresql://localhost/test npm run node-postgres
//
// It creates the table "node_items", which must not exist.

import pg from 'pg';
import pgvector from 'pgvector/pg';
import { DIMENSIONS, check, query, rows } from './sample.js';

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
await client.query('CREATE EXTENSION IF NOT EXISTS distillvq CASCADE');
// Registers the type vector, so that results are arrays.
await pgvector.registerTypes(client);

await client.query(`CREATE TABLE node_items (id bigint PRIMARY KEY, topic integer, embedding vector(${DIMENSIONS}))`);
await client.query('INSERT INTO node_items SELECT * FROM unnest($1::bigint[], $2::integer[], $3::vector[])', [
  rows.map((row) => row.id),
  rows.map((row) => row.topic),
  rows.map((row) => pgvector.toSql(row.embedding)),
]);

// Insert the rows before the index is created: it is trained on them.
await client.query('CREATE INDEX ON node_items USING distillvq (embedding vector_cosine_ops)');
await client.query('ANALYZE node_items');

// For all searches of this connection.
await client.query('SET distillvq.target_recall = 0.98');

const nearest = await client.query(
  'SELECT id, embedding <=> $1 AS distance FROM node_items ORDER BY embedding <=> $1 LIMIT 10',
  [pgvector.toSql(query)],
);
for (const { id, distance } of nearest.rows) {
  console.log(`item ${id} at ${distance.toFixed(3)}`);
}
check(nearest.rows.map((row) => Number(row.id)));
await client.end();
