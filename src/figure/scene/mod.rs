//! Where everything of a figure stands, in pixels: laid out once, then drawn by Plotly and as SVG alike.

mod axis;
mod heatmap;
mod items;
mod limits;
mod multiples;
mod ribbons;
mod series;
mod table;
mod tokens;

#[cfg(test)]
mod tests;

use crate::error::{Error, ErrorKind, Remedy, Result};
use crate::view::View;

pub(super) use heatmap::{cell_text, pooled};
pub(super) use items::{
    Area, AxisScale, CHIP_FONT, Cells, Chip, Grid, Item, Marks, Panel, Ribbons, Scene, Series, Side,
    TABLE_FONT, TABLE_LINE, TABLE_ROW, Text, Thumbnails, TokenChips,
};
pub(super) use limits::{bytes_to_draw, is_too_many};
pub(super) use multiples::most_telling;

/// Lays the views out from top to bottom.
pub(super) fn lay_out(views: &[View]) -> Result<Scene> {
    let mut scene = Scene { width: 420.0, height: items::PAD, items: Vec::new() };
    for (i, view) in views.iter().enumerate() {
        if i > 0 {
            scene.height += items::LINE;
        }
        match view {
            View::Heatmap(named) => scene.heatmap(named)?,
            View::SmallMultiples { values, selected } => scene.multiples(values, *selected)?,
            View::Bars(named) => scene.bars(named)?,
            View::Lines(named) => scene.lines(named)?,
            View::Tokens(named) => scene.tokens(named)?,
            View::Ribbons { widths, effects } => scene.ribbons(widths, effects.as_ref())?,
            View::Table(table) => scene.table(table),
        }
    }
    scene.height = (scene.height + items::PAD).ceil();
    scene.width = scene.width.ceil();
    if scene.height > 16_000.0 {
        return Err(Error::new(ErrorKind::Figure, "the figure would be higher than 16000 pixels")
            .remedied_by(Remedy::DrawLess));
    }
    Ok(scene)
}
