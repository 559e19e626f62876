//! A matrix as rows and columns of colour.

use crate::error::Result;
use crate::figure::label::of_tokens;
use crate::figure::scale::{MUTED, PIXELS, Scale, short};
use crate::figure::scene::axis::{entries, label_height, label_width};
use crate::figure::scene::items::{Area, Cells, Item, LINE, Marks, PAD, Panel, Scene, Side};
use crate::figure::scene::limits::{MOST, MOST_PIXELS, expect};
use crate::named::{Axis, NamedTensor};

impl Scene {
    pub(super) fn heatmap(&mut self, named: &NamedTensor) -> Result<()> {
        let axes = expect(named, 2..=2, MOST_PIXELS)?;
        let values = named.to_vec()?;
        let (scale, pixels) = (Scale::of_matrix(&values, named.value_kind()), is_of_pixels(&values));
        self.title(named.name());
        let (mut panel, end) = cells((PAD, self.height), (&axes[0], &axes[1]), values, scale, (640.0, 560.0));
        if let Marks::Cells(cells) = &mut panel.marks {
            cells.pixels = pixels;
        }
        self.axis_titles(&panel);
        self.items.push(Item::Panel(Box::new(panel)));
        self.grow_to(end.0, end.1);
        Ok(())
    }

    /// The names of a matrix's axes and of its colours.
    pub(super) fn axis_titles(&mut self, panel: &Panel) {
        let area = panel.area;
        let below = area.y + area.h + label_height(&panel.x) + 9.0;
        self.text(panel.x.name.clone(), (area.x + area.w / 2.0, below), 12.0, MUTED, false, Side::Middle);
        let left = area.x - label_width(&panel.y) - 12.0;
        self.text(panel.y.name.clone(), (left, area.y + area.h / 2.0), 12.0, MUTED, false, Side::Middle);
        if let Some(Item::Text(text)) = self.items.last_mut() {
            text.turned = true;
        }
        if let Marks::Cells(cells) = &panel.marks {
            self.scale_title(&cells.scale, &cells.bar);
        }
    }
}

/// Whether a matrix is drawn as pixels. Of one by itself the hover then says the numbers only where none is below zero.
fn is_of_pixels(values: &[f32]) -> bool {
    values.len() > MOST
        || values.len() > PIXELS && values.iter().all(|value| value.is_finite() && *value >= 0.0)
}

/// A matrix with its axes in a corner, and how far it reaches right and down.
pub(super) fn cells(
    (x, y): (f64, f64),
    (rows, columns): (&Axis, &Axis),
    values: Vec<f32>,
    scale: Scale,
    room: (f64, f64),
) -> (Panel, (f64, f64)) {
    let (n, m) = (rows.len() as f64, columns.len() as f64);
    let alike = (n / m).max(m / n) <= 4.0 || (of_tokens(rows) && of_tokens(columns));
    let (w, h) = if alike {
        let side = (room.0 / m).min(room.1 / n).min(36.0);
        (side * m, side * n)
    } else {
        (room.0.min(36.0 * m).max(60.0), room.1.min(26.0 * n).max(26.0))
    };
    let written = n <= 12.0 && m <= 12.0 && w / m >= 28.0 && h / n >= 14.0;
    let across = entries(columns, w / m, false, 0.5);
    let down = entries(rows, h / n, true, 0.5);
    let area = Area { x: x + LINE + label_width(&down) + 4.0, y: y + 4.0, w, h };
    let bar = Area { x: area.x + w + 18.0, y: area.y + 22.0, w: 12.0, h: (h - 22.0).clamp(70.0, 240.0) };
    let end = (bar.x + 72.0, (area.y + h + label_height(&across) + LINE).max(bar.y + bar.h + 8.0));
    let lower = rows.len() == columns.len() && is_lower(&values, columns.len());
    let marks = Marks::Cells(Cells {
        rows: rows.len(),
        columns: columns.len(),
        values,
        scale,
        written,
        lower,
        short: false,
        pixels: false,
        bar,
    });
    (Panel { area, x: across, y: down, marks, legend: None }, end)
}

/// Whether nothing lies above the diagonal.
pub(super) fn is_lower(matrix: &[f32], columns: usize) -> bool {
    columns > 1 && matrix.iter().enumerate().all(|(i, v)| i % columns <= i / columns || *v == 0.0)
}

/// A matrix of at most `most` rows and columns, each cell the largest in size of those that it stands for.
pub(crate) fn pooled(matrix: &[f32], rows: usize, columns: usize, most: usize) -> Vec<f32> {
    let (down, across) = (rows.min(most), columns.min(most));
    if (down, across) == (rows, columns) {
        return matrix.to_vec();
    }
    let mut out = vec![f32::NAN; down * across];
    for (i, value) in matrix.iter().enumerate() {
        let (row, column) = (i / columns * down / rows, i % columns * across / columns);
        let cell = &mut out[row * across + column];
        if value.is_finite() && (cell.is_nan() || value.abs() > cell.abs()) {
            *cell = *value;
        }
    }
    out
}

/// What is written in a cell.
pub(crate) fn cell_text(cells: &Cells, index: usize) -> String {
    let (value, above) = (cells.values[index], index % cells.columns > index / cells.columns);
    if !value.is_finite() || (above && cells.lower) { String::new() } else { short(value, cells.scale.high) }
}
