//! Dump and restore, and the extension's objects: created, listed, checked and dropped.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{Database, Sql, all_found, by_index, mean_recall, search, server, table};
use distillvq_harness::{Metric, Vectors};
use postgres::Client;

/// Dumps a database.
fn dump(database: &str, options: &[&str]) -> Vec<u8> {
    let output = server()
        .command("pg_dump")
        .args(options)
        .arg(database)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    output.stdout
}

/// Feeds a dump to a program that restores it into a new database, and connects to that.
fn restore(dump: &[u8], program: &str, options: &[&str], database: &str) -> Client {
    server()
        .connect()
        .unwrap()
        .run(&format!("CREATE DATABASE {database} TEMPLATE template0"));
    let mut restore = server()
        .command(program)
        .args(options)
        .args(["-d", database])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    restore.stdin.take().unwrap().write_all(dump).unwrap();
    let output = restore.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !stderr.contains("ERROR"),
        "{stderr}"
    );
    server().connect_to(database).unwrap()
}

const MODELS: &str = "SELECT concat_ws('|', name, owner, metric, dimensions, lists, subquantizers, bits, assignments, rows, logged_queries,
                             code_recall_before, code_recall_after, trained_at, md5(body)) FROM distillvq.model ORDER BY name";

const DEFINITIONS: &str = "SELECT pg_get_indexdef(indexrelid) || indisvalid FROM pg_index i
                           JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam
                           WHERE amname = 'distillvq' ORDER BY 1";

#[test]
fn a_restored_database_is_as_it_was() {
    let mut db = Database::new("dumped");
    let all = Vectors::clustered(2_020, 16, 1, 41);
    table(&mut db, "items", "vector", &all.slice(0..2_000));
    db.run(
        "CREATE TABLE few AS SELECT * FROM items WHERE id < 100;
         SELECT distillvq_train('items', 'embedding', 'named', metric => 'l2', lists => 30, seed => 5);
         SELECT distillvq_train('items', 'embedding', 'other', lists => 7, bits => 8);
         CREATE INDEX one ON items USING distillvq (embedding) WITH (model = named, probes = 3);
         CREATE INDEX two ON items USING distillvq (embedding vector_cosine_ops) WITH (model = other);
         CREATE INDEX three ON few USING distillvq ((embedding::halfvec(16)) halfvec_ip_ops) WHERE id > 5",
    );
    let queries = all.slice(2_000..2_020);
    // How far a search goes for further rows is measured anew, with other queries.
    let sql = search("items", Metric::L2, queries.row(0), "LIMIT 10");
    let recall = mean_recall(&mut db, "items", Metric::L2, &queries, 5);
    let plain = dump("dumped", &[]);
    let custom = dump("dumped", &["-Fc"]);
    let copies = [
        restore(&plain, "psql", &["-X", "-v", "ON_ERROR_STOP=1"], "plain"),
        restore(&custom, "pg_restore", &["--exit-on-error"], "custom"),
    ];
    for mut copy in copies {
        assert_eq!(copy.column::<String>(MODELS), db.column::<String>(MODELS));
        assert_eq!(
            copy.column::<String>(DEFINITIONS),
            db.column::<String>(DEFINITIONS)
        );
        assert!(
            by_index(&mut copy, &sql) == by_index(&mut db, &sql),
            "the same model, the same results"
        );
        assert_eq!(
            mean_recall(&mut copy, "items", Metric::L2, &queries, 5),
            recall
        );
        all_found(&mut copy, "items", Metric::Cosine, queries.row(1));
        // What is the extension's stays the extension's: the copy can be dumped, and rid of the extension.
        copy.run("DROP EXTENSION distillvq CASCADE");
    }
}

#[test]
fn who_may_read_all_data_may_dump() {
    let mut db = Database::new("dumped_by_owner");
    let vectors = Vectors::clustered(1_000, 4, 3, 1);
    table(&mut db, "items", "vector", &vectors);
    db.run(
        "SELECT distillvq_train('items', 'embedding', 'm');
         CREATE ROLE dumper LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO dumper",
    );
    let as_dumper = |options: &[&str]| {
        let mut dump = server().command("pg_dump");
        let dump = dump.args(options).args(["-U", "dumper", "dumped_by_owner"]);
        let output = dump.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    };
    let models = "COPY distillvq.model";
    // The bytes of models are not for everybody, as docs/maintenance.md says, with both ways out.
    assert_eq!(as_dumper(&[]), None);
    let without = as_dumper(&["--exclude-table=distillvq.model"]).unwrap();
    assert!(!without.contains(models) && without.contains("COPY public.items"));
    db.run("GRANT pg_read_all_data TO dumper");
    assert!(as_dumper(&[]).unwrap().contains(models));
}

#[test]
fn who_owns_the_database_may_dump_it() {
    let mut db = Database::new("dumped_by_its_owner");
    db.run(
        "CREATE ROLE app LOGIN; ALTER DATABASE dumped_by_its_owner OWNER TO app;
         CREATE TABLE mine (id int); ALTER TABLE mine OWNER TO app",
    );
    let as_app = || {
        let mut dump = server().command("pg_dump");
        let output = dump.args(["-U", "app", "dumped_by_its_owner"]).output();
        let output = output.unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{complaints}");
        output.stdout
    };
    as_app();
    db.run(
        "INSERT INTO mine SELECT generate_series(1, 1000);
         CREATE TABLE items AS SELECT ARRAY[id, id % 7]::vector(2) AS v FROM mine; ALTER TABLE items OWNER TO app;
         SELECT distillvq_train('items', 'v', 'm')",
    );
    assert!(String::from_utf8_lossy(&as_app()).contains("COPY distillvq.model"));
    // Reading is all that is granted.
    let mut app = db.session_of("app");
    for sql in [
        "UPDATE distillvq.model SET owner = 'app'",
        "DELETE FROM distillvq.model",
        "INSERT INTO distillvq.model SELECT * FROM distillvq.model",
        "CREATE TABLE distillvq.own (a int)",
    ] {
        assert_eq!(app.refusal(sql).state, "42501", "{sql}");
    }
}

const OWNERS: &str = "SELECT concat_ws(':', name, owner) FROM distillvq_models ORDER BY name";

#[test]
fn a_dump_keeps_the_owners_of_models() {
    let mut db = Database::of_items("owned", &Vectors::clustered(1_000, 4, 3, 1));
    db.run("GRANT SELECT ON items TO PUBLIC");
    for role in ["old_one", "new_one", "gone"] {
        let mut session = db.session_of(role);
        session.run(&format!(
            "SELECT distillvq_train('items', 'embedding', 'of {role}')"
        ));
    }
    db.run(
        "ALTER ROLE old_one RENAME TO \"Renamed Rôle\"; ALTER ROLE new_one RENAME TO old_one;
         DROP OWNED BY gone; DROP ROLE gone",
    );
    let owners = ["of gone", "of new_one:old_one", "of old_one:Renamed Rôle"];
    assert_eq!(db.column::<String>(OWNERS), owners);
    let (plain, bare) = (dump("owned", &[]), dump("owned", &["--no-privileges"]));
    let strict = ["-X", "-v", "ON_ERROR_STOP=1"];
    let mut copy = restore(&plain, "psql", &strict, "owned_copy");
    assert_eq!(copy.column::<String>(OWNERS), owners);
    // The copy's models hold on to their owners as the first ones do.
    db.run("DROP OWNED BY old_one");
    assert_eq!(db.refusal("DROP ROLE old_one").state, "2BP01");
    copy.run("DROP OWNED BY old_one; DROP ROLE old_one");
    // Without the role its models are nobody's, and those of the others stay theirs.
    let text = String::from_utf8_lossy(&bare).replace("old_one\tcosine", "never_was\tcosine");
    let mut other = restore(text.as_bytes(), "psql", &strict, "owned_elsewhere");
    let owners = ["of gone", "of new_one", "of old_one:Renamed Rôle"];
    assert_eq!(other.column::<String>(OWNERS), owners);
    let mut late = db.session_of("never_was");
    late.run("SELECT 1");
    assert_eq!(other.column::<String>(OWNERS), owners);
}

#[test]
fn a_dump_without_data_takes_no_models_along() {
    let mut db = Database::of_items("schema_only", &Vectors::clustered(1_000, 4, 3, 1));
    db.run("SELECT distillvq_train('items', 'embedding')");
    let text = String::from_utf8(dump("schema_only", &["--schema-only"])).unwrap();
    assert!(
        text.contains("CREATE EXTENSION IF NOT EXISTS distillvq")
            && !text.contains("items_embedding")
    );
    let mut copy = restore(
        text.as_bytes(),
        "psql",
        &["-X", "-v", "ON_ERROR_STOP=1"],
        "schema_copy",
    );
    assert_eq!(copy.one::<i64>("SELECT count(*) FROM distillvq_models"), 0);
}

/// Everything in the database that is named after the extension, or is made of its library or access method.
const TRACES: &str = "
    SELECT pg_describe_object(classid, objid, 0) FROM (
        SELECT 'pg_proc'::regclass classid, oid objid FROM pg_proc WHERE proname LIKE 'distillvq%' OR probin LIKE '%distillvq%'
        UNION SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relname LIKE 'distillvq%' AND relkind NOT IN ('i', 'c')
        UNION SELECT 'pg_class'::regclass, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
              WHERE nspname = 'distillvq' AND relkind NOT IN ('i', 'c')
        UNION SELECT 'pg_type'::regclass, reltype FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
              WHERE nspname = 'distillvq' AND relkind = 'c'
        UNION SELECT 'pg_cast'::regclass, oid FROM pg_cast
              WHERE to_regtype('distillvq.model_owner') IN (castsource, casttarget)
        UNION SELECT 'pg_am'::regclass, oid FROM pg_am WHERE amname = 'distillvq'
        UNION SELECT 'pg_opclass'::regclass, o.oid FROM pg_opclass o JOIN pg_am a ON a.oid = opcmethod WHERE amname = 'distillvq'
        UNION SELECT 'pg_opfamily'::regclass, o.oid FROM pg_opfamily o JOIN pg_am a ON a.oid = opfmethod WHERE amname = 'distillvq'
        UNION SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname LIKE 'distillvq%') s
    ORDER BY 1";

/// The members of the extension, without the row types of its relations.
const MEMBERS: &str = "
    SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
    WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
      AND (classid <> 'pg_type'::regclass OR objid IN (SELECT reltype FROM pg_class WHERE relkind = 'c'))
      AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'distillvq')
    ORDER BY 1";

#[test]
fn every_object_and_column_says_what_it_is_for() {
    let mut db = Database::new("described");
    let silent: Vec<String> = db.column(
        "SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
         WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
           AND classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_am'::regclass, 'pg_namespace'::regclass,
                           'pg_opclass'::regclass)
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'distillvq')
           AND obj_description(objid, classid::regclass::name) IS NULL
         UNION ALL
         SELECT format('column %s of view %s', attname, attrelid::regclass) FROM pg_attribute
         JOIN pg_depend ON classid = 'pg_class'::regclass AND objid = attrelid AND deptype = 'e'
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'distillvq')
         JOIN pg_class c ON c.oid = attrelid AND relkind = 'v'
         WHERE col_description(attrelid, attnum) IS NULL
         ORDER BY 1",
    );
    assert_eq!(silent, [""; 0]);
}

#[test]
fn every_object_belongs_to_the_extension() {
    let mut db = Database::new("members");
    let traces: Vec<String> = db.column(TRACES);
    assert_eq!(db.column::<String>(MEMBERS), traces);
    let count = |kind: &str| {
        traces
            .iter()
            .filter(|trace| trace.starts_with(kind))
            .count()
    };
    assert_eq!(count("operator class"), 26, "{traces:?}");
    assert_eq!(count("operator family"), 23, "{traces:?}");
    assert_eq!(count("access method"), 1, "{traces:?}");
    assert_eq!(count("function"), 19, "{traces:?}");
    assert!(
        traces.contains(&"table distillvq.model".to_owned()),
        "{traces:?}"
    );
    assert!(
        traces.contains(&"view distillvq_models".to_owned()),
        "{traces:?}"
    );
}

#[test]
fn dropping_the_extension_removes_everything() {
    let mut db = Database::of_items("dropped", &Vectors::clustered(1_000, 4, 3, 1));
    let version: String = db.one("SELECT extversion FROM pg_extension WHERE extname = 'distillvq'");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    db.run("SELECT distillvq_train('items', 'embedding'); DROP EXTENSION distillvq");
    assert_eq!(db.column::<String>(TRACES), [""; 0]);
    db.run("CREATE EXTENSION distillvq; CREATE INDEX one ON items USING distillvq (embedding)");
    let refusal = db.refusal("DROP EXTENSION distillvq");
    assert_eq!(refusal.state, "2BP01", "{refusal:?}");
    all_found(&mut db, "items", Metric::L2, &[0.0; 4]);
    db.run("DROP EXTENSION distillvq CASCADE");
    assert_eq!(db.column::<String>(TRACES), [""; 0]);
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM pg_class WHERE relname = 'one'"),
        0
    );
    assert_eq!(db.one::<i64>("SELECT count(*) FROM items"), 1_000);
    db.run("DROP EXTENSION vector CASCADE");
}

#[test]
fn another_schema() {
    let mut db = Database::new("schemas");
    db.run(
        "DROP EXTENSION distillvq; DROP EXTENSION vector; CREATE SCHEMA v; CREATE SCHEMA \"My d\";
         CREATE EXTENSION vector SCHEMA v; CREATE EXTENSION distillvq SCHEMA \"My d\";
         SET search_path = public, v",
    );
    let vectors = Vectors::clustered(1_200, 4, 3, 1);
    table(&mut db, "items", "vector", &vectors);
    db.run(
        "SELECT \"My d\".distillvq_train('items', 'embedding', 'm', metric => 'l2');
         CREATE INDEX one ON items USING distillvq (embedding \"My d\".vector_l2_ops) WITH (model = m)",
    );
    assert_eq!(
        db.one::<i64>("SELECT count(*) FROM \"My d\".distillvq_models"),
        1
    );
    all_found(&mut db, "items", Metric::L2, vectors.row(0));
    let recall = mean_recall(&mut db, "items", Metric::L2, &vectors.slice(0..10), 32_768);
    assert!(recall >= 0.99, "{recall}");
    let mut bare = db.session();
    bare.run("SET search_path = ''; INSERT INTO public.items VALUES (-1, '[1,2,3,4]'); REINDEX INDEX public.one");
    bare.run("SELECT \"My d\".distillvq_train('public.items', 'embedding', 'n')");
    all_found(&mut db, "items", Metric::L2, vectors.row(0));
    let plain = dump("schemas", &[]);
    let mut copy = restore(
        &plain,
        "psql",
        &["-X", "-v", "ON_ERROR_STOP=1"],
        "schemas_copy",
    );
    copy.run("SET search_path = public, v");
    assert_eq!(copy.column::<String>(MODELS), db.column::<String>(MODELS));
    all_found(&mut copy, "items", Metric::L2, vectors.row(0));
}

#[test]
fn what_the_extension_does_not_let_be_done() {
    let mut db = Database::new("fixed");
    let mover =
        db.refusal("CREATE SCHEMA elsewhere; ALTER EXTENSION distillvq SET SCHEMA elsewhere");
    assert_eq!(mover.state, "0A000", "{mover:?}");
    for sql in [
        "DROP SCHEMA distillvq CASCADE",
        "DROP TABLE distillvq.model",
        "DROP EXTENSION vector",
    ] {
        assert_eq!(db.refusal(sql).state, "2BP01", "{sql}");
    }
    assert_eq!(db.refusal("CREATE EXTENSION distillvq").state, "42710");
    let mut guest = db.session_of("guest");
    db.run("DROP EXTENSION distillvq");
    assert_eq!(guest.refusal("CREATE EXTENSION distillvq").state, "42501");
    db.run("CREATE EXTENSION distillvq VERSION '0.1.0'");
    assert_eq!(
        db.refusal("ALTER EXTENSION distillvq UPDATE TO '99'").state,
        "22023"
    );
}

#[test]
fn the_schema_of_the_models_is_taken() {
    // A schema that somebody made before is not taken over: its owner could do as he likes with the models.
    let mut db = Database::new("taken");
    db.run("DROP EXTENSION distillvq; CREATE SCHEMA distillvq");
    assert_eq!(db.refusal("CREATE EXTENSION distillvq").state, "42P06");
    db.run("DROP SCHEMA distillvq; CREATE EXTENSION distillvq");
}

#[test]
fn the_operator_classes_are_valid() {
    let mut db = Database::new("valid");
    let valid: Vec<bool> = db.column(
        "SELECT amvalidate(o.oid) FROM pg_opclass o JOIN pg_am a ON a.oid = opcmethod WHERE amname = 'distillvq'",
    );
    assert_eq!(valid, [true; 26]);
}

#[test]
fn broken_operator_classes_are_not_valid() {
    let mut db = Database::new("broken");
    db.run(
        "CREATE FUNCTION wrong(vector, vector) RETURNS real IMMUTABLE LANGUAGE sql AS 'SELECT 1::real';
         CREATE FUNCTION wide() RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT 1::bigint';
         CREATE FUNCTION true_of(vector, vector) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR <~> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = wrong);
         CREATE OPERATOR <?> (LEFTARG = vector, RIGHTARG = vector, FUNCTION = true_of)",
    );
    let order = "OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops";
    let distance = "FUNCTION 1 l2_distance(vector, vector)";
    let metric = "FUNCTION 2 distillvq_metric_l2()";
    for (number, (parts, valid)) in [
        ([order, distance, metric].join(", "), true),
        ([distance, metric].join(", "), false),
        ([order, metric].join(", "), false),
        ([order, distance].join(", "), false),
        (
            [order, "FUNCTION 1 cosine_distance(vector, vector)", metric].join(", "),
            false,
        ),
        (
            [order, "FUNCTION 1 wrong(vector, vector)", metric].join(", "),
            false,
        ),
        ([order, distance, "FUNCTION 2 wide()"].join(", "), false),
        (
            [
                "OPERATOR 1 <~> (vector, vector) FOR ORDER BY float_ops",
                "FUNCTION 1 wrong(vector, vector)",
                metric,
            ]
            .join(", "),
            false,
        ),
        (
            [
                "OPERATOR 2 <-> (vector, vector) FOR ORDER BY float_ops",
                distance,
                metric,
            ]
            .join(", "),
            false,
        ),
        (
            [order, "OPERATOR 2 <?> (vector, vector)", distance, metric].join(", "),
            false,
        ),
        (
            [order, distance, metric, "STORAGE halfvec"].join(", "),
            false,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let create =
            format!("CREATE OPERATOR CLASS own{number} FOR TYPE vector USING distillvq AS {parts}");
        if let Err(error) = db.batch_execute(&create) {
            assert!(!valid && error.code().is_some(), "{parts}: {error}"); // refused before: as good
            continue;
        }
        let answer: bool = db.one(&format!(
            "SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = 'own{number}'"
        ));
        assert_eq!(answer, valid, "{parts}");
    }
    assert!(!db.one::<bool>("SELECT amvalidate(o.oid) FROM pg_opclass o WHERE opcname = 'own4'"));
}

#[test]
fn an_operator_class_of_ones_own_works() {
    let mut db = Database::new("own_class");
    let vectors = Vectors::clustered(1_500, 8, 10, 2);
    table(&mut db, "items", "vector", &vectors);
    db.run(
        "CREATE OPERATOR CLASS mine FOR TYPE vector USING distillvq AS
             OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops,
             FUNCTION 1 l2_distance(vector, vector), FUNCTION 2 distillvq_metric_l2();
         CREATE INDEX one ON items USING distillvq (embedding mine)",
    );
    let recall = mean_recall(&mut db, "items", Metric::L2, &vectors.slice(0..10), 32_768);
    assert!(recall >= 0.99, "{recall}");
    assert_eq!(db.refusal("DROP EXTENSION distillvq").state, "2BP01");
}
