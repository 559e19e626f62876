//! What a result says of how it is to be looked at, in terms of [`NamedTensor`]. Drawing it is `figure`'s work.

use crate::error::{Error, ErrorKind, Result};
use crate::named::{Axis, NamedTensor};

/// One picture, described.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum View {
    /// Two axes as rows and columns; row 0 at the top.
    Heatmap(NamedTensor),
    /// Three axes: a thumbnail for each entry of the first, one of them enlarged.
    SmallMultiples {
        /// The matrices, one for each entry of the first axis.
        values: NamedTensor,
        /// The entry that is enlarged; the most telling where none is selected.
        selected: Option<usize>,
    },
    /// One axis as bars; or two, a group of bars for each entry of the last.
    Bars(NamedTensor),
    /// One axis as a line; or two, a line for each entry of the first.
    Lines(NamedTensor),
    /// One axis of text pieces, each coloured by its number.
    Tokens(NamedTensor),
    /// Two rows of words with ribbons between them.
    Ribbons {
        /// How wide each is `[target, source]`, from 0 to 1.
        widths: NamedTensor,
        /// What each is coloured by, in the same axes; grey where nothing is known.
        effects: Option<NamedTensor>,
    },
    /// Rows of words and numbers.
    Table(Table),
}

/// A table of text: what is best read rather than seen.
#[derive(Clone, Debug)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with a title and column heads.
    pub fn new<C: Into<String>>(title: impl Into<String>, columns: impl IntoIterator<Item = C>) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        Table { title: title.into(), columns, rows: Vec::new() }
    }

    /// Adds a row, padded or cut to the number of columns.
    pub fn push<C: Into<String>>(&mut self, row: impl IntoIterator<Item = C>) {
        let mut row: Vec<String> = row.into_iter().map(Into::into).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// The title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The column heads.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The rows, each as long as the heads.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }
}

/// A result that can be looked at.
pub trait Visualize {
    /// What there is to look at, from top to bottom.
    fn views(&self) -> Result<Vec<View>>;
}

impl Visualize for NamedTensor {
    /// By the number of axes: one is bars (lines where there are many entries), two a heatmap, three small
    /// multiples, four small multiples over the first two (layer and head, say).
    fn views(&self) -> Result<Vec<View>> {
        const MANY: usize = 64;
        let axes = self.axes();
        let view = match axes {
            [] => {
                let mut table = Table::new(self.name(), ["value"]);
                table.push([format!("{:.4}", self.value(&[])?)]);
                View::Table(table)
            }
            [axis] if axis.len() > MANY => View::Lines(self.clone()),
            [_] => View::Bars(self.clone()),
            [_, _] => View::Heatmap(self.clone()),
            [_, _, _] => View::SmallMultiples { values: self.clone(), selected: None },
            [outer, inner, rows, columns] => {
                let labels: Vec<String> = (0..outer.len() * inner.len())
                    .map(|i| facet(outer, i / inner.len(), inner, i % inner.len()))
                    .collect();
                let shape = (labels.len(), rows.len(), columns.len());
                let tensor = self.tensor().reshape(shape)?;
                let axes = vec![Axis::labelled(inner.name(), labels), rows.clone(), columns.clone()];
                let flat = NamedTensor::new(self.name(), tensor, axes)?.with_value_kind(self.value_kind());
                View::SmallMultiples { values: flat, selected: None }
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Figure,
                    format!(
                        "`{}` has {} axes ({}); at most 4 can be drawn",
                        self.name(),
                        axes.len(),
                        self.axis_names().join(", ")
                    ),
                )
                .help("take one entry of an axis with `.select(axis, index)?` first"));
            }
        };
        Ok(vec![view])
    }
}

fn facet(outer: &Axis, i: usize, inner: &Axis, j: usize) -> String {
    match (outer.name(), inner.name()) {
        ("layer", "head") => format!("L{i}H{j}"),
        (a, b) => format!("{a} {}, {b} {}", outer.label(i), inner.label(j)),
    }
}
