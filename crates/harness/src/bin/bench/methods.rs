//! The access methods that are compared, and the settings at which each is measured.

use distillvq_harness::Metric;

/// Neighbors asked for.
pub(crate) const K: usize = 10;

/// An access method, its parameters, and the values of the setting that trades recall for speed.
pub(crate) struct Method {
    pub(crate) name: String,
    /// What follows `ON items`.
    pub(crate) definition: String,
    /// What the index is over, and the query with it.
    expression: String,
    /// The operator of the distance.
    operator: &'static str,
    /// Runs before the index is built.
    pub(crate) prepare: String,
    pub(crate) setting: &'static str,
    pub(crate) values: &'static [&'static str],
}

/// The setting of distillvq's searches.
pub(crate) const OURS: &str = "distillvq.target_recall";
/// Its values.
const TARGETS: [&str; 10] = [
    "0.7", "0.8", "0.85", "0.9", "0.93", "0.95", "0.97", "0.98", "0.99", "0.995",
];
/// Those of [`TARGETS`] whose time is measured by stage.
pub(crate) const STAGES_AT: [&str; 3] = ["0.8", "0.95", "0.98"];
const EF_SEARCH: [&str; 10] = [
    "10", "20", "40", "60", "80", "120", "200", "400", "700", "1000",
];
const PROBES: [&str; 8] = ["1", "2", "4", "8", "16", "32", "64", "128"];

/// The table and its queries.
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) dim: usize,
    pub(crate) metric: Metric,
    /// Whether there is a query log.
    pub(crate) log: bool,
}

/// All methods for a table.
pub(crate) fn methods(shape: &Shape) -> Vec<Method> {
    let mut methods = ours(shape);
    methods.extend(pgvector(shape));
    methods
}

/// A method over the column `embedding`, with `WITH` parameters.
fn method(shape: &Shape, name: &str, access: &str, with: &str) -> Method {
    let ops = format!("vector_{}_ops", shape.metric.name());
    let with = if with.is_empty() {
        String::new()
    } else {
        format!(" WITH ({with})")
    };
    let (setting, values): (_, &[_]) = match access {
        "hnsw" => ("hnsw.ef_search", &EF_SEARCH),
        "ivfflat" => ("ivfflat.probes", &PROBES),
        _ => (OURS, &TARGETS),
    };
    Method {
        name: name.to_owned(),
        definition: format!("USING {access} (embedding {ops}){with}"),
        expression: "embedding".to_owned(),
        operator: shape.metric.operator(),
        prepare: String::new(),
        setting,
        values,
    }
}

fn ours(shape: &Shape) -> Vec<Method> {
    let queries = if shape.log {
        ", queries => 'query_log', query_column => 'embedding'"
    } else {
        ""
    };
    let metric = shape.metric.name();
    // The refine codes that are not the default.
    let other = if shape.dim * size_of::<f32>() > 1_900 {
        "none"
    } else {
        "sq7"
    };
    let mut methods = vec![Method {
        prepare: format!(
            "SELECT distillvq_train('items', 'embedding', 'bench', metric => '{metric}'{queries})"
        ),
        ..method(shape, "distillvq", "distillvq", "model = bench")
    }];
    if shape.log {
        methods.push(method(shape, "distillvq, no query log", "distillvq", ""));
    }
    // The same model, so that only the refine codes differ.
    methods.push(method(
        shape,
        &format!("distillvq, refine = {other}"),
        "distillvq",
        &format!("model = bench, refine = {other}"),
    ));
    methods
}

fn pgvector(shape: &Shape) -> Vec<Method> {
    let (dim, metric) = (shape.dim, shape.metric.name());
    // pgvector's documentation recommends the square root of the rows for large tables.
    let lists = (shape.rows as f64).sqrt().round();
    let tuned = "m = 32, ef_construction = 200";
    vec![
        method(shape, "pgvector hnsw", "hnsw", ""),
        method(shape, &format!("pgvector hnsw, {tuned}"), "hnsw", tuned),
        Method {
            definition: format!("USING hnsw ((embedding::halfvec({dim})) halfvec_{metric}_ops)"),
            expression: format!("embedding::halfvec({dim})"),
            ..method(shape, "pgvector hnsw, halfvec", "hnsw", "")
        },
        method(
            shape,
            "pgvector ivfflat",
            "ivfflat",
            &format!("lists = {lists}"),
        ),
    ]
}

impl Method {
    /// The statement that finds the nearest rows for the test query with id `$1`.
    pub(crate) fn query(&self) -> String {
        let (column, operator) = (&self.expression, self.operator);
        format!(
            "SELECT id FROM items ORDER BY {column} {operator} (SELECT {column} FROM test_queries WHERE id = $1) LIMIT {K}"
        )
    }
}
