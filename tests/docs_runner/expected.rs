//! Compares the output shown on a page with the printed output, with tolerance for figures.

/// How far a share (a number with a point, from 0 to 1) may be from the one that is shown.
const TOLERANCE: f64 = 0.05;

/// What is wrong with an output, or nothing. Blanks, empty lines and the rules of tables do not count; `…` stands for
/// anything, on a line of its own for any lines. Of numbers with a point, those up to 1 may differ by [`TOLERANCE`] and larger
/// ones, times mostly, in any way; with `any_figures` all numbers may.
pub fn difference(shown: &str, printed: &str, any_figures: bool) -> Option<String> {
    let (expected, actual) = (lines(shown), lines(printed));
    let same = globs(&expected, &actual, &|line| *line == ["…"], &|a, b| {
        globs(a, b, &|word| *word == "…", &|a, b| {
            alike(a, b, any_figures)
        })
    });
    (!same).then(|| format!("shown:\n{shown}printed:\n{printed}"))
}

fn lines(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .filter(|line| line.contains(|c| !" -+".contains(c)))
        .map(|line| line.split_whitespace().collect())
        .collect()
}

/// Whether a list matches a pattern of which some items stand for any number of items.
fn globs<T>(
    pattern: &[T],
    list: &[T],
    any: &dyn Fn(&T) -> bool,
    same: &dyn Fn(&T, &T) -> bool,
) -> bool {
    match (pattern.split_first(), list.split_first()) {
        (None, found) => found.is_none(),
        (Some((first, rest)), found) if any(first) => {
            globs(rest, list, any, same)
                || found.is_some_and(|(_, others)| globs(pattern, others, any, same))
        }
        (Some((first, rest)), Some((item, others))) => {
            same(first, item) && globs(rest, others, any, same)
        }
        _ => false,
    }
}

/// Whether a word is the one that is shown.
fn alike(shown: &str, printed: &str, any_figures: bool) -> bool {
    if shown == printed {
        return true;
    }
    if let (Ok(a), Ok(b)) = (shown.parse::<f64>(), printed.parse::<f64>()) {
        let points = shown.contains('.') && printed.contains('.');
        let far = (a - b).abs() > TOLERANCE && a.abs() <= 1.0;
        return any_figures || (points && !far);
    }
    let (a, b): (Vec<char>, Vec<char>) = (shown.chars().collect(), printed.chars().collect());
    globs(&a, &b, &|c| *c == '…', &|a, b| a == b)
}

#[cfg(test)]
mod tests {
    use super::difference;

    const SHOWN: &str = " id | recall | ms\n----+--------+----\n  7 |  0.951 | 1.25\n(1 row)\n";

    fn same(printed: &str) -> bool {
        difference(SHOWN, printed, false).is_none()
    }

    #[test]
    fn widths_and_times_and_a_little_recall_do_not_count() {
        assert!(same(
            " id | recall |  ms\n----+--------+-----\n  7 |  0.930 | 20.1\n(1 row)\n\n"
        ));
    }

    #[test]
    fn other_columns_words_rows_and_recalls_count() {
        for wrong in [
            " id | recall \n 7 | 0.951 \n(1 row)\n",
            " id | recall | ms\n 8 | 0.951 | 1.25\n(1 row)\n",
            " id | recall | ms\n 7 | 0.851 | 1.25\n(1 row)\n",
            " id | recall | ms\n 7 | 0.951 | 1.25\n 7 | 0.951 | 1.25\n(2 rows)\n",
            "",
        ] {
            assert!(!same(wrong), "{wrong}");
        }
    }

    #[test]
    fn dots_stand_for_words_and_lines() {
        let shown = "a … z\n…\nkey=…kB\n";
        assert!(difference(shown, "a z\nkey=1kB\n", false).is_none());
        assert!(difference(shown, "a b c z\nmore\nlines\nkey=23kB\n", false).is_none());
        assert!(difference(shown, "a b c\nkey=1kB\n", false).is_some());
    }

    #[test]
    fn figures_may_vary() {
        assert!(difference("12 kB\n", "99 kB\n", true).is_none());
        assert!(difference("12 kB\n", "99 kB\n", false).is_some());
        assert!(difference("12 kB\n", "99 MB\n", true).is_some());
    }
}
