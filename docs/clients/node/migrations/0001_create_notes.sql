CREATE TABLE "drizzle_notes" (
	"id" integer PRIMARY KEY NOT NULL,
	"topic" integer NOT NULL,
	"embedding" vector(64) NOT NULL
);
--> statement-breakpoint
CREATE INDEX "drizzle_notes_embedding_idx" ON "drizzle_notes" USING distillvq ("embedding" vector_cosine_ops) WITH (target_recall=0.98);