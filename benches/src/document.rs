//! The place for the tables in a document.

use std::path::Path;

use anyhow::Context;

use crate::Result;

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench` -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Puts `text` between the two marks in the document, in place of what is there.
///
/// # Errors
/// When the document cannot be read or written, or has no marks.
pub fn insert(path: &Path, text: &str) -> Result {
    let document = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let document = replaced(&document, text).with_context(|| format!("no marks in {}", path.display()))?;
    std::fs::write(path, document).with_context(|| format!("writing {}", path.display()))
}

fn replaced(document: &str, text: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n\n{END}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_the_marks_is_replaced_and_nothing_else() {
        let document = format!("before\n{BEGIN}old\n{END}after\n");
        let once = replaced(&document, "\nnew\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\nnew\n\n{END}after\n"));
        assert_eq!(replaced(&once, "new"), Some(once.clone()));
        assert_eq!(replaced("no marks", "new"), None);
    }
}
