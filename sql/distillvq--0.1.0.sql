-- distillvq 0.1.0: access method, operator classes, models, training.
\echo Use "CREATE EXTENSION distillvq CASCADE" to load this file. \quit

-- pgvector --------------------------------------------------------------------

-- Versions before this one have no halfvec. The packages depend on the version that is stated here.
DO $$
DECLARE
    least_pgvector constant text := '0.7.0';
    digits constant text := '^([0-9]+)[.]([0-9]+)[.]([0-9]+)';
    installed constant text := (SELECT extversion FROM pg_extension WHERE extname = 'vector');
BEGIN
    IF regexp_match(installed, digits)::integer[] < regexp_match(least_pgvector, digits)::integer[] THEN
        RAISE EXCEPTION 'distillvq requires pgvector % or later, but the extension "vector" has version %',
                least_pgvector, installed
            USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = format('Install pgvector %s or later, then run ALTER EXTENSION vector UPDATE.', least_pgvector);
    END IF;
END
$$;

-- The access method ---------------------------------------------------------

CREATE FUNCTION distillvq_handler(internal) RETURNS index_am_handler
    LANGUAGE c AS 'MODULE_PATHNAME', 'distillvq_handler';

COMMENT ON FUNCTION distillvq_handler(internal) IS 'handler of the access method distillvq';

CREATE ACCESS METHOD distillvq TYPE INDEX HANDLER distillvq_handler;

COMMENT ON ACCESS METHOD distillvq IS 'distilled IVF-PQ vector index';

-- Support function 2 of an operator class tells which metric its operator computes.

CREATE FUNCTION distillvq_metric_l2() RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'distillvq_metric_l2_wrapper';
CREATE FUNCTION distillvq_metric_ip() RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'distillvq_metric_ip_wrapper';
CREATE FUNCTION distillvq_metric_cosine() RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'distillvq_metric_cosine_wrapper';

COMMENT ON FUNCTION distillvq_metric_l2() IS 'support function of operator classes for <->';
COMMENT ON FUNCTION distillvq_metric_ip() IS 'support function of operator classes for <#>';
COMMENT ON FUNCTION distillvq_metric_cosine() IS 'support function of operator classes for <=>';

-- Operator classes, named as pgvector names them ------------------------------

CREATE OPERATOR CLASS vector_l2_ops DEFAULT
    FOR TYPE vector USING distillvq AS
    OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops,
    FUNCTION 1 l2_distance(vector, vector),
    FUNCTION 2 distillvq_metric_l2();

CREATE OPERATOR CLASS vector_ip_ops
    FOR TYPE vector USING distillvq AS
    OPERATOR 1 <#> (vector, vector) FOR ORDER BY float_ops,
    FUNCTION 1 vector_negative_inner_product(vector, vector),
    FUNCTION 2 distillvq_metric_ip();

CREATE OPERATOR CLASS vector_cosine_ops
    FOR TYPE vector USING distillvq AS
    OPERATOR 1 <=> (vector, vector) FOR ORDER BY float_ops,
    FUNCTION 1 cosine_distance(vector, vector),
    FUNCTION 2 distillvq_metric_cosine();

CREATE OPERATOR CLASS halfvec_l2_ops DEFAULT
    FOR TYPE halfvec USING distillvq AS
    OPERATOR 1 <-> (halfvec, halfvec) FOR ORDER BY float_ops,
    FUNCTION 1 l2_distance(halfvec, halfvec),
    FUNCTION 2 distillvq_metric_l2();

CREATE OPERATOR CLASS halfvec_ip_ops
    FOR TYPE halfvec USING distillvq AS
    OPERATOR 1 <#> (halfvec, halfvec) FOR ORDER BY float_ops,
    FUNCTION 1 halfvec_negative_inner_product(halfvec, halfvec),
    FUNCTION 2 distillvq_metric_ip();

CREATE OPERATOR CLASS halfvec_cosine_ops
    FOR TYPE halfvec USING distillvq AS
    OPERATOR 1 <=> (halfvec, halfvec) FOR ORDER BY float_ops,
    FUNCTION 1 cosine_distance(halfvec, halfvec),
    FUNCTION 2 distillvq_metric_cosine();

COMMENT ON OPERATOR CLASS vector_l2_ops USING distillvq IS 'vector (32-bit floats) by Euclidean distance, <->';
COMMENT ON OPERATOR CLASS vector_ip_ops USING distillvq IS 'vector (32-bit floats) by negative inner product, <#>';
COMMENT ON OPERATOR CLASS vector_cosine_ops USING distillvq IS 'vector (32-bit floats) by cosine distance, <=>';
COMMENT ON OPERATOR CLASS halfvec_l2_ops USING distillvq IS 'halfvec (16-bit floats) by Euclidean distance, <->';
COMMENT ON OPERATOR CLASS halfvec_ip_ops USING distillvq IS 'halfvec (16-bit floats) by negative inner product, <#>';
COMMENT ON OPERATOR CLASS halfvec_cosine_ops USING distillvq IS 'halfvec (16-bit floats) by cosine distance, <=>';

-- Operator classes of filter columns, which follow the vector column -----------

-- Strategies 1 to 5 are those of btree. The types decide how the values are stored (src/pg/filter_columns.rs).

CREATE OPERATOR FAMILY integer_ops USING distillvq;

CREATE OPERATOR CLASS int2_ops DEFAULT
    FOR TYPE int2 USING distillvq FAMILY integer_ops AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS int4_ops DEFAULT
    FOR TYPE int4 USING distillvq FAMILY integer_ops AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS int8_ops DEFAULT
    FOR TYPE int8 USING distillvq FAMILY integer_ops AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

ALTER OPERATOR FAMILY integer_ops USING distillvq ADD
    OPERATOR 1 < (int2, int4), OPERATOR 2 <= (int2, int4), OPERATOR 3 = (int2, int4), OPERATOR 4 >= (int2, int4), OPERATOR 5 > (int2, int4),
    OPERATOR 1 < (int2, int8), OPERATOR 2 <= (int2, int8), OPERATOR 3 = (int2, int8), OPERATOR 4 >= (int2, int8), OPERATOR 5 > (int2, int8),
    OPERATOR 1 < (int4, int2), OPERATOR 2 <= (int4, int2), OPERATOR 3 = (int4, int2), OPERATOR 4 >= (int4, int2), OPERATOR 5 > (int4, int2),
    OPERATOR 1 < (int4, int8), OPERATOR 2 <= (int4, int8), OPERATOR 3 = (int4, int8), OPERATOR 4 >= (int4, int8), OPERATOR 5 > (int4, int8),
    OPERATOR 1 < (int8, int2), OPERATOR 2 <= (int8, int2), OPERATOR 3 = (int8, int2), OPERATOR 4 >= (int8, int2), OPERATOR 5 > (int8, int2),
    OPERATOR 1 < (int8, int4), OPERATOR 2 <= (int8, int4), OPERATOR 3 = (int8, int4), OPERATOR 4 >= (int8, int4), OPERATOR 5 > (int8, int4);

CREATE OPERATOR FAMILY float_ops USING distillvq;

CREATE OPERATOR CLASS float4_ops DEFAULT
    FOR TYPE float4 USING distillvq FAMILY float_ops AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS float8_ops DEFAULT
    FOR TYPE float8 USING distillvq FAMILY float_ops AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

ALTER OPERATOR FAMILY float_ops USING distillvq ADD
    OPERATOR 1 < (float4, float8), OPERATOR 2 <= (float4, float8), OPERATOR 3 = (float4, float8), OPERATOR 4 >= (float4, float8), OPERATOR 5 > (float4, float8),
    OPERATOR 1 < (float8, float4), OPERATOR 2 <= (float8, float4), OPERATOR 3 = (float8, float4), OPERATOR 4 >= (float8, float4), OPERATOR 5 > (float8, float4);

CREATE OPERATOR CLASS bool_ops DEFAULT
    FOR TYPE bool USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS char_ops DEFAULT
    FOR TYPE "char" USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS oid_ops DEFAULT
    FOR TYPE oid USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS date_ops DEFAULT
    FOR TYPE date USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS time_ops DEFAULT
    FOR TYPE time USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS timestamp_ops DEFAULT
    FOR TYPE timestamp USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS timestamptz_ops DEFAULT
    FOR TYPE timestamptz USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS numeric_ops DEFAULT
    FOR TYPE numeric USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS uuid_ops DEFAULT
    FOR TYPE uuid USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS text_ops DEFAULT
    FOR TYPE text USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS bpchar_ops DEFAULT
    FOR TYPE bpchar USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS bytea_ops DEFAULT
    FOR TYPE bytea USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS enum_ops DEFAULT
    FOR TYPE anyenum USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

CREATE OPERATOR CLASS inet_ops DEFAULT
    FOR TYPE inet USING distillvq AS
    OPERATOR 1 <,
    OPERATOR 2 <=,
    OPERATOR 3 =,
    OPERATOR 4 >=,
    OPERATOR 5 >;

-- Labels: any array whose elements have a hash function.
CREATE OPERATOR CLASS array_ops DEFAULT
    FOR TYPE anyarray USING distillvq AS
    OPERATOR 3 =,
    OPERATOR 6 &&,
    OPERATOR 7 @>,
    OPERATOR 8 <@;

COMMENT ON OPERATOR CLASS int2_ops USING distillvq IS 'filter column of type smallint';
COMMENT ON OPERATOR CLASS int4_ops USING distillvq IS 'filter column of type integer';
COMMENT ON OPERATOR CLASS int8_ops USING distillvq IS 'filter column of type bigint';
COMMENT ON OPERATOR CLASS float4_ops USING distillvq IS 'filter column of type real';
COMMENT ON OPERATOR CLASS float8_ops USING distillvq IS 'filter column of type double precision';
COMMENT ON OPERATOR CLASS bool_ops USING distillvq IS 'filter column of type boolean';
COMMENT ON OPERATOR CLASS char_ops USING distillvq IS 'filter column of type "char"';
COMMENT ON OPERATOR CLASS oid_ops USING distillvq IS 'filter column of type oid';
COMMENT ON OPERATOR CLASS date_ops USING distillvq IS 'filter column of type date';
COMMENT ON OPERATOR CLASS time_ops USING distillvq IS 'filter column of type time';
COMMENT ON OPERATOR CLASS timestamp_ops USING distillvq IS 'filter column of type timestamp';
COMMENT ON OPERATOR CLASS timestamptz_ops USING distillvq IS 'filter column of type timestamp with time zone';
COMMENT ON OPERATOR CLASS numeric_ops USING distillvq IS 'filter column of type numeric';
COMMENT ON OPERATOR CLASS uuid_ops USING distillvq IS 'filter column of type uuid';
COMMENT ON OPERATOR CLASS text_ops USING distillvq IS 'filter column of type text and varchar';
COMMENT ON OPERATOR CLASS bpchar_ops USING distillvq IS 'filter column of type char(n)';
COMMENT ON OPERATOR CLASS bytea_ops USING distillvq IS 'filter column of type bytea';
COMMENT ON OPERATOR CLASS enum_ops USING distillvq IS 'filter column of type enum types';
COMMENT ON OPERATOR CLASS inet_ops USING distillvq IS 'filter column of type inet and cidr';
COMMENT ON OPERATOR CLASS array_ops USING distillvq IS 'filter column of labels: an array';

-- Models ------------------------------------------------------------------------

CREATE SCHEMA distillvq;

COMMENT ON SCHEMA distillvq IS 'tables and internal functions of the extension distillvq';

-- The role that owns a model: kept as its number, so that it follows the role, and shown and read as its name.
CREATE TYPE distillvq.model_owner;

CREATE FUNCTION distillvq.model_owner_in(cstring) RETURNS distillvq.model_owner
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'distillvq_model_owner_in_wrapper';
CREATE FUNCTION distillvq.model_owner_out(distillvq.model_owner) RETURNS cstring
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'distillvq_model_owner_out_wrapper';

COMMENT ON FUNCTION distillvq.model_owner_in(cstring) IS 'role of this name, or none if it does not exist';
COMMENT ON FUNCTION distillvq.model_owner_out(distillvq.model_owner) IS 'name of the role, empty if it was dropped';

CREATE TYPE distillvq.model_owner (INPUT = distillvq.model_owner_in, OUTPUT = distillvq.model_owner_out, LIKE = oid);

COMMENT ON TYPE distillvq.model_owner IS
    'role that owns models; it has USAGE, so that DROP ROLE reports them and DROP OWNED releases them';

CREATE CAST (distillvq.model_owner AS oid) WITHOUT FUNCTION;
CREATE CAST (oid AS distillvq.model_owner) WITHOUT FUNCTION;

CREATE TABLE distillvq.model (
    name           text PRIMARY KEY CHECK (name <> ''),
    owner          distillvq.model_owner NOT NULL,
    metric         text NOT NULL,
    dimensions     integer NOT NULL,
    lists          integer NOT NULL,
    subquantizers  integer NOT NULL,
    bits           integer NOT NULL,
    assignments    integer NOT NULL,
    rows           bigint NOT NULL,
    logged_queries bigint NOT NULL,
    code_recall_before  real NOT NULL,
    code_recall_after   real NOT NULL,
    trained_at     timestamptz NOT NULL,
    body           bytea NOT NULL
);

ALTER TABLE distillvq.model ALTER COLUMN body SET STORAGE EXTERNAL;

COMMENT ON TABLE distillvq.model IS 'trained models; written by distillvq_train and distillvq_import_model, copied into an index when it is built';

-- A model averages rows of its table, and keeps held-out queries of its log: its numbers are for its owner and the
-- database's administrators. The database's owner
-- must be able to dump it.
REVOKE ALL ON distillvq.model FROM PUBLIC;
GRANT USAGE ON SCHEMA distillvq TO pg_database_owner;
GRANT SELECT ON distillvq.model TO pg_database_owner;

SELECT pg_catalog.pg_extension_config_dump('distillvq.model', '');

CREATE VIEW distillvq_models AS
    SELECT name, (SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.oid = m.owner::pg_catalog.oid) AS owner, metric,
           dimensions, lists, subquantizers, bits, assignments, rows, logged_queries, code_recall_before, code_recall_after, trained_at,
           pg_catalog.octet_length(body) AS bytes
    FROM distillvq.model m;

COMMENT ON VIEW distillvq_models IS 'models for CREATE INDEX ... WITH (model = ...)';

COMMENT ON COLUMN distillvq_models.name IS 'name for CREATE INDEX ... WITH (model = ...)';
COMMENT ON COLUMN distillvq_models.owner IS 'role that may replace, export, and drop it; NULL if that role was dropped';
COMMENT ON COLUMN distillvq_models.metric IS 'l2, ip, or cosine';
COMMENT ON COLUMN distillvq_models.dimensions IS 'dimensions of the vectors';
COMMENT ON COLUMN distillvq_models.lists IS 'inverted lists';
COMMENT ON COLUMN distillvq_models.subquantizers IS 'codes per row';
COMMENT ON COLUMN distillvq_models.bits IS 'bits per code';
COMMENT ON COLUMN distillvq_models.assignments IS 'maximum number of lists per row';
COMMENT ON COLUMN distillvq_models.rows IS 'rows sampled for the training';
COMMENT ON COLUMN distillvq_models.logged_queries IS 'logged queries used by the training';
COMMENT ON COLUMN distillvq_models.code_recall_before IS 'recall@10 of the codes before distillation';
COMMENT ON COLUMN distillvq_models.code_recall_after IS 'recall@10 of the codes after distillation';
COMMENT ON COLUMN distillvq_models.trained_at IS 'time of the training or import';
COMMENT ON COLUMN distillvq_models.bytes IS 'size of the model';

GRANT SELECT ON distillvq_models TO PUBLIC;

CREATE FUNCTION distillvq_train(
    "table"        regclass,
    "column"       name,
    model          text DEFAULT NULL,
    metric         text DEFAULT 'cosine',
    queries        regclass DEFAULT NULL,
    query_column   name DEFAULT NULL,
    lists          integer DEFAULT 0,
    subquantizers  integer DEFAULT 0,
    bits           integer DEFAULT 0,
    assignments    integer DEFAULT 0,
    seed           bigint DEFAULT 0,
    loss           text DEFAULT 'listnet',
    OUT model      text,
    OUT rows       bigint,
    OUT queries_used bigint,
    OUT code_recall_before real,
    OUT code_recall_after  real,
    OUT seconds    real)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_train_wrapper';

COMMENT ON FUNCTION distillvq_train(regclass, name, text, text, regclass, name, integer, integer, integer, integer, bigint, text) IS
    'trains a model on a column of vectors, for CREATE INDEX ... WITH (model = ...)';

-- A live index trained again: decoder and routing change in place, reads and writes go on.
CREATE FUNCTION distillvq_train(
    "index"        regclass,
    queries        regclass DEFAULT NULL,
    query_column   name DEFAULT NULL,
    seed           bigint DEFAULT 0,
    loss           text DEFAULT 'listnet',
    OUT model      text,
    OUT rows       bigint,
    OUT queries_used bigint,
    OUT code_recall_before real,
    OUT code_recall_after  real,
    OUT seconds    real)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_train_index_wrapper';

COMMENT ON FUNCTION distillvq_train(regclass, regclass, name, bigint, text) IS
    'trains a distillvq index in place, concurrently with reads and writes, and calibrates it; not undone by ROLLBACK';

CREATE FUNCTION distillvq_export_model(name text) RETURNS bytea
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'distillvq_export_model_wrapper';

COMMENT ON FUNCTION distillvq_export_model(text) IS 'bytes of a model, for distillvq_import_model';

CREATE FUNCTION distillvq_import_model(name text, body bytea, replace boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'distillvq_import_model_wrapper';

COMMENT ON FUNCTION distillvq_import_model(text, bytea, boolean) IS
    'stores the result of distillvq_export_model as a model';

CREATE FUNCTION distillvq_drop_model(name text, force boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'distillvq_drop_model_wrapper';

COMMENT ON FUNCTION distillvq_drop_model(text, boolean) IS
    'drops a model; force => true drops it even if indexes name it, which then cannot be rebuilt';

-- Recall ------------------------------------------------------------------------

-- Measures the recall of a live index anew, on queries of a log or on rows that pose as queries: one row.
CREATE FUNCTION distillvq_calibrate(
    "index"        regclass,
    queries        regclass DEFAULT NULL,
    query_column   name DEFAULT NULL,
    OUT query_source text,
    OUT queries_used bigint,
    OUT rows       bigint,
    OUT target_recall real,
    OUT probes     integer,
    OUT seconds    real)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_calibrate_wrapper';

COMMENT ON FUNCTION distillvq_calibrate(regclass, regclass, name) IS
    'measures the recall of a distillvq index by number of probed lists, for distillvq.target_recall';

-- The right is that to maintain the table. There is no function that returns the sampled queries.
CREATE FUNCTION distillvq_reset_query_sample("index" regclass) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'distillvq_reset_query_sample_wrapper';

COMMENT ON FUNCTION distillvq_reset_query_sample(regclass) IS
    'removes the queries that searches have left in a distillvq index; returns their number';

-- Verification ------------------------------------------------------------------

-- A row for each problem, none if the index is sound. The right is that to maintain the table.
CREATE FUNCTION distillvq_check("index" regclass, heap boolean DEFAULT false)
    RETURNS TABLE (block bigint, problem text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_check_wrapper';

COMMENT ON FUNCTION distillvq_check(regclass, boolean) IS
    'problems of a distillvq index: its structure; with heap => true also compared with the rows of its table';

-- Counters of searches ------------------------------------------------------------

-- What the session's last search has done, over all its rescans; no row before the first one.
CREATE FUNCTION distillvq_last_scan()
    RETURNS TABLE ("index" regclass, lists bigint, probed bigint, codes bigint, excluded bigint, refined bigint,
                   reranked bigint, returned bigint, dropped bigint)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_last_scan_wrapper';

COMMENT ON FUNCTION distillvq_last_scan() IS
    'work of the last distillvq index scan of this session: lists probed, codes scanned, rows excluded by filter columns, rows ranked by exact distance, returned, and dropped as late';

-- Knowing an index --------------------------------------------------------------

-- Recall of an index against exact search over the rows that the caller's statement sees, with the settings of the session.
-- The index may be one of any access method that orders vectors by distance. Needs the right to read the indexed column.
CREATE FUNCTION distillvq_recall(
    "index"          regclass,
    k                integer DEFAULT 10,
    query_count      integer DEFAULT 100,
    queries          regclass DEFAULT NULL,
    query_column     name DEFAULT NULL,
    OUT k            integer,
    OUT queries_used integer,
    OUT recall       real,
    OUT recall_low   real,
    OUT recall_high  real,
    OUT index_ms     real,
    OUT exact_ms     real,
    OUT setting      text,
    OUT query_source text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_recall_wrapper';

COMMENT ON FUNCTION distillvq_recall(regclass, integer, integer, regclass, name) IS
    'recall of an index (also of hnsw and ivfflat) against exact search, with its 95 % interval, and the time of both';

-- Figures of an index.
CREATE TYPE distillvq.index_info AS (
    rows             bigint,
    lists            integer,
    list_min         bigint,
    list_median      bigint,
    list_max         bigint,
    largest_share    real,
    exact_rows       bigint,
    bytes            bigint,
    bytes_per_row    real,
    dead_rows        bigint,
    inserted_rows    bigint,
    model            text,
    trained_at       timestamptz,
    trained_rows     bigint,
    logged_queries   bigint,
    sampled_queries  bigint,
    code_recall_before    real,
    code_recall_after     real,
    calibration      json,
    query_source     text,
    recall_before_calibration real,
    drift            real,
    advice           text);

-- What an index is made of, and what it needs. Reads the whole index and up to 1,500 rows of its table.
CREATE FUNCTION distillvq_index_info("index" regclass) RETURNS SETOF distillvq.index_info
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_index_info_wrapper';

COMMENT ON FUNCTION distillvq_index_info(regclass) IS
    'figures of a distillvq index: rows, lists, size, dead entries, training, calibration, drift, and advice';

-- For the view alone: no row for an index that the caller may not see, and no error for one without figures.
CREATE FUNCTION distillvq.index_info_or_null("index" oid) RETURNS SETOF distillvq.index_info
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_index_info_or_null_wrapper';

COMMENT ON FUNCTION distillvq.index_info_or_null(oid) IS 'distillvq_index_info for the view distillvq_indexes';

CREATE VIEW distillvq_indexes AS
    SELECT c.oid::regclass AS "index", i.indrelid::regclass AS "table", info.*
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
    JOIN pg_catalog.pg_am a ON a.oid = c.relam
    CROSS JOIN LATERAL distillvq.index_info_or_null(c.oid) info
    WHERE a.amname = 'distillvq' AND c.relkind = 'i';

COMMENT ON VIEW distillvq_indexes IS
    'distillvq_index_info for all indexes of this database that you may see; reads each index';

COMMENT ON COLUMN distillvq_indexes."index" IS 'the index';
COMMENT ON COLUMN distillvq_indexes."table" IS 'its table';
COMMENT ON COLUMN distillvq_indexes.rows IS 'entries of the index';
COMMENT ON COLUMN distillvq_indexes.lists IS 'inverted lists';
COMMENT ON COLUMN distillvq_indexes.list_min IS 'entries of the shortest list';
COMMENT ON COLUMN distillvq_indexes.list_median IS 'entries of the median list';
COMMENT ON COLUMN distillvq_indexes.list_max IS 'entries of the longest list';
COMMENT ON COLUMN distillvq_indexes.largest_share IS 'fraction of the entries in the longest list';
COMMENT ON COLUMN distillvq_indexes.exact_rows IS 'entries without a code, which every search compares';
COMMENT ON COLUMN distillvq_indexes.bytes IS 'size of the index';
COMMENT ON COLUMN distillvq_indexes.bytes_per_row IS 'size per entry';
COMMENT ON COLUMN distillvq_indexes.dead_rows IS 'estimated entries of dead rows';
COMMENT ON COLUMN distillvq_indexes.inserted_rows IS 'entries inserted since the build';
COMMENT ON COLUMN distillvq_indexes.model IS 'name of the model, own if trained by the build';
COMMENT ON COLUMN distillvq_indexes.trained_at IS 'time of the last training';
COMMENT ON COLUMN distillvq_indexes.trained_rows IS 'rows sampled for the training';
COMMENT ON COLUMN distillvq_indexes.logged_queries IS 'logged queries used by the training';
COMMENT ON COLUMN distillvq_indexes.sampled_queries IS 'queries in the sample that searches keep';
COMMENT ON COLUMN distillvq_indexes.code_recall_before IS 'recall@10 of the codes before distillation';
COMMENT ON COLUMN distillvq_indexes.code_recall_after IS 'recall@10 of the codes after distillation';
COMMENT ON COLUMN distillvq_indexes.calibration IS 'measured recall by number of probed lists';
COMMENT ON COLUMN distillvq_indexes.query_source IS 'searches, log, rows, or none: the queries of the calibration';
COMMENT ON COLUMN distillvq_indexes.recall_before_calibration IS 'recall of sampled queries for which VACUUM calibrated the index again';
COMMENT ON COLUMN distillvq_indexes.drift IS 'quantization error of inserted rows, relative to that of the build; NULL if unknown or not permitted';
COMMENT ON COLUMN distillvq_indexes.advice IS 'action, reason, and statement; ok if none is needed';

GRANT SELECT ON distillvq_indexes TO PUBLIC;

CREATE FUNCTION distillvq_prewarm("index" regclass) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'distillvq_prewarm_wrapper';

COMMENT ON FUNCTION distillvq_prewarm(regclass) IS
    'reads a distillvq index into shared buffers and its model into the session; returns the number of blocks';

-- Builds and trainings under way. The server names no index while a plain CREATE INDEX makes it. Parameter 9 of the server's progress
-- report is the access method, 10 the phase of the command, 11 that of the access method, 12 and 13 total and done rows.
CREATE VIEW distillvq_progress AS
    SELECT s.pid,
           s.relid::regclass AS "table",
           NULLIF(s.param7, 0)::oid::regclass AS "index",
           pg_catalog.regexp_replace(p.phase, '^building index: ', '') AS phase,
           n.done,
           n.total,
           pg_catalog.round(100.0 * n.done / NULLIF(n.total, 0), 1) AS percent
    FROM pg_catalog.pg_stat_get_progress_info('CREATE INDEX') s
    JOIN pg_catalog.pg_stat_progress_create_index p ON p.pid = s.pid
    JOIN pg_catalog.pg_am a ON a.oid = s.param9::oid AND a.amname = 'distillvq'
    JOIN pg_catalog.pg_database d ON d.oid = s.datid AND d.datname = pg_catalog.current_database()
    CROSS JOIN LATERAL (SELECT CASE WHEN s.param12 > 0 THEN s.param13 ELSE p.blocks_done END AS done,
                               CASE WHEN s.param12 > 0 THEN s.param12 ELSE p.blocks_total END AS total) n;

COMMENT ON VIEW distillvq_progress IS 'running builds and trainings of distillvq indexes in this database';

COMMENT ON COLUMN distillvq_progress.pid IS 'process of the session';
COMMENT ON COLUMN distillvq_progress."table" IS 'table whose rows are read';
COMMENT ON COLUMN distillvq_progress."index" IS 'index; NULL during a plain CREATE INDEX';
COMMENT ON COLUMN distillvq_progress.phase IS 'current phase';
COMMENT ON COLUMN distillvq_progress.done IS 'rows or blocks done';
COMMENT ON COLUMN distillvq_progress.total IS 'total rows or blocks';
COMMENT ON COLUMN distillvq_progress.percent IS 'done, in percent';

GRANT SELECT ON distillvq_progress TO PUBLIC;
