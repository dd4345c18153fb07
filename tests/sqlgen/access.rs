//! Roles, and their privileges on the tables of a round.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Who runs a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The owner of everything.
    Owner,
    /// A role that sees some rows only.
    Policy,
    /// A role that may not read the rows.
    NoTable,
    /// A role that may read all columns but the vectors.
    NoVectors,
    /// A role that may not read the rows, but the server's statistics.
    Monitor,
}

const POLICY: &str = "vq_policy";
const NO_TABLE: &str = "vq_no_table";
const NO_VECTORS: &str = "vq_no_vectors";
/// Figures of an index as JSON, and its drift; without what may change meanwhile.
pub const FIGURES: &str =
    "SELECT (to_jsonb(f) - '{index,table,dead,drift,advice}'::text[])::text, drift::text FROM";

/// Makes the roles, which all databases of a server share.
pub const MAKE_ROLES: &str =
    "CREATE ROLE vq_policy; CREATE ROLE vq_no_table; CREATE ROLE vq_no_vectors;
     CREATE ROLE vq_monitor IN ROLE pg_monitor";

impl Access {
    /// Mostly the owner.
    pub fn random(random: &mut ChaCha8Rng) -> Self {
        match random.random_range(0..12) {
            0 | 1 => Self::Policy,
            2 => Self::NoTable,
            3 => Self::NoVectors,
            _ => Self::Owner,
        }
    }

    /// Whether every search must be refused, and the figures of indexes too.
    pub fn is_refused(self) -> bool {
        matches!(self, Self::NoTable | Self::NoVectors)
    }

    /// Becomes the role.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Owner => "RESET ROLE",
            Self::Policy => "SET ROLE vq_policy",
            Self::NoTable => "SET ROLE vq_no_table",
            Self::NoVectors => "SET ROLE vq_no_vectors",
            Self::Monitor => "SET ROLE vq_monitor",
        }
    }
}

/// The rights of the roles on the tables that are searched, and on those beside them.
pub fn grants(tables: &[&str]) -> Vec<String> {
    let mut statements = vec![format!(
        "GRANT SELECT ON queries, labels TO {POLICY}, {NO_TABLE}, {NO_VECTORS}"
    )];
    for table in tables {
        statements.push(format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {POLICY}"
        ));
        statements.push(format!(
            "GRANT SELECT (id, model, category, price, note) ON {table} TO {NO_VECTORS}"
        ));
        statements.push(format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"));
        statements.push(format!(
            "CREATE POLICY some_rows ON {table} TO {POLICY} USING (category IS DISTINCT FROM 1)"
        ));
    }
    statements
}
