//! Pages of the documentation: their blocks of code, and the expected output.
//!
//! HTML comments directly before a block, each on its own line, give instructions to the test:
//!
//! | comment | |
//! |---|---|
//! | `<!-- not run: WHY -->` | does not run the block, and prints the reason |
//! | `<!-- fails -->` | a statement of the block must fail; its error is compared |
//! | `<!-- on: a, b -->` | runs the block in each of these databases |
//! | `<!-- figures vary -->` | numbers in the output may differ |
//! | `<!-- uses: PAGE -->` | for the whole page: first runs that page up to `<!-- end of set-up -->` |

mod expected;

use std::fs;
use std::path::{Path, PathBuf};

pub use expected::difference;

/// A fenced block of code.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// The page and the line where its fence stands.
    pub place: String,
    /// What the fence says: `sql`, `sh`, `text`.
    pub language: String,
    /// What is between the fences.
    pub text: String,
    /// The comments right before it.
    pub comments: Vec<String>,
    /// What it prints, by the block of text right behind it, and the comments before that.
    pub output: Option<Box<Block>>,
}

impl Block {
    /// What follows `NAME:` in a comment before the block.
    pub fn comment(&self, name: &str) -> Option<&str> {
        self.comments
            .iter()
            .find_map(|comment| comment.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    }

    /// Whether a comment before the block says just this.
    pub fn says(&self, words: &str) -> bool {
        self.comments.iter().any(|comment| comment == words)
    }
}

/// A page, read.
#[derive(Debug)]
pub struct Page {
    /// Its path from the top of the checkout.
    pub path: String,
    /// Its blocks in order, without those that are another's output.
    pub blocks: Vec<Block>,
    /// The page whose set-up it begins with.
    pub uses: Option<String>,
    /// How many of its blocks are set-up.
    pub setup: usize,
    /// Paths in its links.
    pub links: Vec<String>,
    /// What cannot be understood.
    pub faults: Vec<String>,
}

/// The top of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All pages that tell a user what to type, by path from the top of the checkout.
pub fn all() -> Vec<String> {
    let pages = fs::read_dir(checkout().join("docs")).unwrap();
    let mut pages: Vec<String> = pages
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    pages.push("README.md".into());
    pages.sort();
    pages
}

impl Page {
    /// Reads a page.
    pub fn read(path: &str) -> Self {
        Self::parse(path, &fs::read_to_string(checkout().join(path)).unwrap())
    }

    fn parse(path: &str, text: &str) -> Self {
        let mut page = Self {
            path: path.into(),
            blocks: Vec::new(),
            uses: None,
            setup: 0,
            links: Vec::new(),
            faults: Vec::new(),
        };
        let mut comments = Vec::new();
        let mut adjacent = false; // nothing but comments since the last block
        let mut lines = text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            if let Some(language) = line.strip_prefix("```") {
                let body = lines
                    .by_ref()
                    .map(|(line, _)| line)
                    .take_while(|line| *line != "```");
                let block = Block {
                    place: format!("{path}:{number}"),
                    language: language.into(),
                    text: body.map(|line| format!("{line}\n")).collect(),
                    comments: std::mem::take(&mut comments),
                    output: None,
                };
                page.add(block, adjacent);
                adjacent = true;
            } else if let Some(comment) = comment(line) {
                match (comment, comment.strip_prefix("uses:")) {
                    (_, Some(other)) => page.uses = Some(other.trim().into()),
                    ("end of set-up", _) => page.setup = page.blocks.len(),
                    _ => comments.push(comment.to_owned()),
                }
            } else if !line.is_empty() {
                for comment in comments.drain(..) {
                    page.faults
                        .push(format!("{path}:{number}: no block follows \"{comment}\""));
                }
                adjacent = false;
                page.links.extend(links(line));
            }
        }
        page
    }

    fn add(&mut self, block: Block, adjacent: bool) {
        if block.language != "text" {
            self.blocks.push(block);
            return;
        }
        match self.blocks.last_mut() {
            Some(last) if adjacent && last.output.is_none() => last.output = Some(block.into()),
            _ => self
                .faults
                .push(format!("{}: the output of nothing", block.place)),
        }
    }
}

fn comment(line: &str) -> Option<&str> {
    Some(line.strip_prefix("<!--")?.strip_suffix("-->")?.trim())
}

/// The paths in a line's links, without those to other sites and with no anchors.
fn links(line: &str) -> Vec<String> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://"))
        .filter_map(|target| target.split('#').next())
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Page;

    const TEXT: &str = "\
# A page
<!-- uses: other.md -->
Words, [a link](a.md#part), [a site](https://example.com).

<!-- not run: needs a moon -->

```sql
SELECT 1;
```

```text
 1
```
<!-- end of set-up -->
```sh
make test
```
";

    #[test]
    fn blocks_have_their_comments_and_their_output() {
        let page = Page::parse("p.md", TEXT);
        let [sql, sh] = &page.blocks[..] else {
            panic!("{page:?}");
        };
        assert_eq!(
            (
                sql.place.as_str(),
                sql.text.as_str(),
                sql.comment("not run")
            ),
            ("p.md:7", "SELECT 1;\n", Some("needs a moon"))
        );
        assert_eq!(
            sql.output.as_ref().map(|output| output.text.as_str()),
            Some(" 1\n")
        );
        assert_eq!((sh.language.as_str(), sh.output.is_none()), ("sh", true));
        assert_eq!((page.setup, page.uses.as_deref()), (1, Some("other.md")));
        assert_eq!(
            (page.links, page.faults),
            (vec!["a.md".to_owned()], Vec::new())
        );
    }

    #[test]
    fn what_belongs_to_nothing_is_a_fault() {
        let text = "<!-- figures vary -->\nWords.\n\n```text\n1\n```\n";
        assert_eq!(Page::parse("p.md", text).faults.len(), 2);
    }
}
