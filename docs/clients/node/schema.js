import { index, integer, pgTable, vector } from 'drizzle-orm/pg-core';

export const notes = pgTable(
  'drizzle_notes',
  {
    id: integer().primaryKey(),
    topic: integer().notNull(),
    embedding: vector({ dimensions: 64 }).notNull(),
  },
  (table) => [
    index('drizzle_notes_embedding_idx')
      .using('distillvq', table.embedding.op('vector_cosine_ops'))
      .with({ target_recall: 0.98 }),
  ],
);
