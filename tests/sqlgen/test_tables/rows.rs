//! The rows of a round's tables, the vectors that are searched for, and how rows change.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::{Layout, Shape, Target, TestTables};

/// The model of a row whose number is in the column `i`: 1, and 2 for every fourth row.
pub fn model_of(i: &str) -> String {
    format!("(1 + ({i} % 4 = 0)::int)")
}

impl TestTables {
    /// Further rows: some without vector, some zero, some without category.
    pub fn insert(&mut self, rows: i64) -> Vec<String> {
        if rows <= 0 {
            return Vec::new();
        }
        let (first, last) = (self.next, self.next + rows - 1);
        self.next += rows;
        let child = (self.layout == Layout::Inherited).then_some("vq_child");
        let halves = [("items", "<="), (child.unwrap_or("items"), ">")];
        let middle = (first + last) / 2;
        let halves = halves.map(|(table, sign)| {
            format!(
                "INSERT INTO {table} (id, model, category, price, note, embedding)
                 SELECT i, {}, nullif((random() * 6)::int, 6), nullif(round(random()::numeric, 2), 0.5), 'note ' || i % 9, {}
                 FROM generate_series({first}, {last}) i WHERE i {sign} {middle}",
                model_of("i"),
                self.vector_of("i")
            )
        });
        halves.into()
    }

    /// The vector of a row whose number is in the column `i`.
    fn vector_of(&self, i: &str) -> String {
        let element = match self.shape {
            Shape::Groups => &format!("sin(7 * ({i} % 12) + 3 * d) * 2 + random() * 0.5"),
            Shape::Noise => "random() * 2 - 1",
            Shape::Grid => "floor(random() * 3) - 1",
            Shape::Copies => &format!("sin(({i} % 25) * 5 + d)"),
            Shape::Lengths => &format!("(random() - 0.5) * power(10, {i} % 6 - 3)"),
            Shape::Line => &format!("{i} * 0.001 + d % 3 - 1"),
        };
        let dim = match self.target {
            Target::Model => &format!("({} + 2 * ({} - 1))", self.dim, model_of(i)),
            _ => &self.dim.to_string(),
        };
        format!(
            "CASE WHEN {i} % 37 = 3 THEN NULL WHEN {i} % 41 = 5 THEN array_fill(0, ARRAY[{dim}])
             ELSE ARRAY(SELECT {element} FROM generate_series(1, {dim}) d WHERE {i} IS NOT NULL) END::real[]::{kind}",
            kind = self.kind
        )
    }

    pub(super) fn default(&self) -> String {
        format!(
            "array_fill(0.25, ARRAY[{}])::real[]::{}",
            self.dim, self.kind
        )
    }

    /// The id of a row that there is, or was.
    pub fn some_id(&self, random: &mut ChaCha8Rng) -> i64 {
        random.random_range(0..self.next.max(1))
    }

    /// A query vector as SQL: near the rows, at one of them, far away, zero, or NULL.
    pub fn query(&self, random: &mut ChaCha8Rng) -> String {
        self.query_of(self.searched().1, random)
    }

    /// The same of so many dimensions.
    pub fn query_of(&self, dim: usize, random: &mut ChaCha8Rng) -> String {
        let (kind, _) = self.searched();
        let group = random.random_range(0..12);
        let way = random.random_range(0..9);
        let mut element = |d: usize| -> f32 {
            let noise: f32 = random.random_range(-1.0..1.0);
            match way {
                0 => (noise * 1.5).round(),
                1 => noise * 100.0,
                2..5 => noise,
                _ => ((7 * group + 3 * (d + 1)) as f32).sin() * 2.0 + noise * 0.3,
            }
        };
        let elements: Vec<f32> = (0..dim).map(&mut element).collect();
        match random.random_range(0..20) {
            0 => format!("NULL::{kind}"),
            1 => format!("'[{}]'::{kind}", vec!["0"; dim].join(",")),
            _ => {
                let elements: Vec<String> = elements.iter().map(|x| format!("{x:.3}")).collect();
                format!("'[{}]'::{kind}", elements.join(","))
            }
        }
    }

    /// Some changes to the rows.
    pub fn changes(&mut self, random: &mut ChaCha8Rng) -> Vec<String> {
        let seed = random.random_range(0..100) as f64 / 100.0;
        let mut statements = vec![format!("SELECT setseed({seed})")];
        for _ in 0..random.random_range(1..4) {
            let modulus = random.random_range(4..20);
            let some = format!("id % {modulus} = {}", random.random_range(0..modulus));
            let vector = self.vector_of("id");
            match random.random_range(0..5) {
                0 => statements.extend(self.insert(random.random_range(1..150))),
                1 => statements.push(format!(
                    "UPDATE items SET embedding = {vector} WHERE {some}"
                )),
                2 => statements.push(format!("UPDATE items SET note = note || '.' WHERE {some}")),
                3 => statements.push(format!(
                    "UPDATE items SET category = (random() * 5)::int WHERE {some}"
                )),
                _ => statements.push(format!("DELETE FROM items WHERE {some}")),
            }
        }
        statements
    }
}
