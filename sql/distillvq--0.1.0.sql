-- distillvq 0.1.0: access method, operator classes, models, training.
\echo Use "CREATE EXTENSION distillvq CASCADE" to load this file. \quit

-- The access method ---------------------------------------------------------

CREATE FUNCTION distillvq_handler(internal) RETURNS index_am_handler
    LANGUAGE c AS 'MODULE_PATHNAME', 'distillvq_handler';

CREATE ACCESS METHOD distillvq TYPE INDEX HANDLER distillvq_handler;

COMMENT ON ACCESS METHOD distillvq IS 'distilled IVF-PQ vector index';

-- Support function 2 of an operator class tells which metric its operator computes.

CREATE FUNCTION distillvq_metric_l2() RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'distillvq_metric_l2_wrapper';
CREATE FUNCTION distillvq_metric_ip() RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'distillvq_metric_ip_wrapper';
CREATE FUNCTION distillvq_metric_cosine() RETURNS integer
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'distillvq_metric_cosine_wrapper';

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

-- Models ------------------------------------------------------------------------

CREATE SCHEMA distillvq;

CREATE TABLE distillvq.model (
    name           text PRIMARY KEY CHECK (name <> ''),
    owner          name NOT NULL,
    metric         text NOT NULL,
    dimensions     integer NOT NULL,
    lists          integer NOT NULL,
    subquantizers  integer NOT NULL,
    bits           integer NOT NULL,
    rows           bigint NOT NULL,
    queries        bigint NOT NULL,
    recall_before  real NOT NULL,
    recall_after   real NOT NULL,
    trained        timestamptz NOT NULL,
    body           bytea NOT NULL
);

ALTER TABLE distillvq.model ALTER COLUMN body SET STORAGE EXTERNAL;

COMMENT ON TABLE distillvq.model IS 'trained models; written by distillvq_train and distillvq_import_model, copied into an index when it is built';

-- A model averages rows of its table: its numbers are for its owner and the database's administrators.
REVOKE ALL ON distillvq.model FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('distillvq.model', '');

CREATE VIEW distillvq_models AS
    SELECT name, owner, metric, dimensions, lists, subquantizers, bits, rows, queries, recall_before, recall_after,
           trained, pg_catalog.octet_length(body) AS bytes
    FROM distillvq.model;

COMMENT ON VIEW distillvq_models IS 'the models that CREATE INDEX ... WITH (model = ...) can use';

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
    bits           integer DEFAULT 4,
    seed           bigint DEFAULT 0,
    loss           text DEFAULT 'listnet',
    OUT model      text,
    OUT rows       bigint,
    OUT queries    bigint,
    OUT recall_before real,
    OUT recall_after  real,
    OUT seconds    real)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_train_wrapper';

-- A live index trained again: decoder and routing change in place, reads and writes go on.
CREATE FUNCTION distillvq_train(
    "index"        regclass,
    queries        regclass DEFAULT NULL,
    query_column   name DEFAULT NULL,
    seed           bigint DEFAULT 0,
    loss           text DEFAULT 'listnet',
    OUT model      text,
    OUT rows       bigint,
    OUT queries    bigint,
    OUT recall_before real,
    OUT recall_after  real,
    OUT seconds    real)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_train_index_wrapper';

CREATE FUNCTION distillvq_export_model(name text) RETURNS bytea
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'distillvq_export_model_wrapper';

CREATE FUNCTION distillvq_import_model(name text, body bytea, replace boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'distillvq_import_model_wrapper';

CREATE FUNCTION distillvq_drop_model(name text, force boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'distillvq_drop_model_wrapper';

-- Recall ------------------------------------------------------------------------

-- Measures the recall of a live index anew, on queries of a log or on rows that pose as queries: one row.
CREATE FUNCTION distillvq_calibrate(
    "index"        regclass,
    queries        regclass DEFAULT NULL,
    query_column   name DEFAULT NULL,
    OUT kind       text,
    OUT queries_used bigint,
    OUT rows       bigint,
    OUT target_recall real,
    OUT probes     integer,
    OUT seconds    real)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_calibrate_wrapper';

COMMENT ON FUNCTION distillvq_calibrate(regclass, regclass, name) IS
    'measures which recall searches in a distillvq index reach; distillvq.target_recall goes by it';

-- Verification ------------------------------------------------------------------

-- A row for each problem, none if the index is sound. The right is that to maintain the table.
CREATE FUNCTION distillvq_check("index" regclass, heap boolean DEFAULT false)
    RETURNS TABLE (block bigint, problem text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_check_wrapper';

COMMENT ON FUNCTION distillvq_check(regclass, boolean) IS
    'problems of a distillvq index: its structure, with heap => true also against the rows of its table';

-- Counters of searches ------------------------------------------------------------

-- What the session's last search has done, over all its rescans; no row before the first one.
CREATE FUNCTION distillvq_last_scan()
    RETURNS TABLE ("index" regclass, lists bigint, probed bigint, codes bigint, refined bigint, compared bigint,
                   returned bigint)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'distillvq_last_scan_wrapper';

COMMENT ON FUNCTION distillvq_last_scan() IS
    'work of the last distillvq index scan of this session: lists probed, codes scanned, rows compared and returned';
