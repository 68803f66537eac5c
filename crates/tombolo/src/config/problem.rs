//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// One mistake, at a place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 when the mistake belongs to the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 when the mistake belongs to the file as a whole.
    pub column: usize,
    /// What is wrong and, where there is one, the mend.
    pub message: String,
}

/// Collects every problem of one text, so that a user mends them in one go.
pub(super) struct Problems<'a> {
    source: &'a str,
    list: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Self { source, list: Vec::new() }
    }

    /// Notes a problem at a byte range of the text.
    pub(super) fn at(&mut self, span: Range<usize>, message: impl Into<String>) {
        let (line, column) = position(self.source, span.start);
        self.list.push(Problem { line, column, message: message.into() });
    }

    /// Notes a problem of the whole file.
    pub(super) fn whole(&mut self, message: impl Into<String>) {
        self.list.push(Problem { line: 0, column: 0, message: message.into() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All problems in the order of the file.
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.list.sort_by_key(|problem| (problem.line, problem.column));
        self.list
    }
}

/// Line and column (both from 1, the column in characters) of a byte offset.
fn position(source: &str, offset: usize) -> (usize, usize) {
    let mut line = 1;
    let mut column = 1;
    for (at, character) in source.char_indices() {
        if at >= offset {
            break;
        }
        if character == '\n' {
            line += 1;
            column = 1;
        } else {
            column += 1;
        }
    }
    (line, column)
}

/// A configuration that cannot be used: every problem of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, in the order of the file; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            if problem.line == 0 {
                write!(formatter, "{path}: {}", problem.message)?;
            } else {
                write!(formatter, "{path}:{}:{}: {}", problem.line, problem.column, problem.message)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
