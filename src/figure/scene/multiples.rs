//! Many matrices as small pictures, and one of them enlarged.

use crate::error::{Error, ErrorKind, Result};
use crate::figure::label::{cut, facet_title};
use crate::figure::scale::{MUTED, Scale};
use crate::figure::scene::heatmap::{cells, is_lower, pooled};
use crate::figure::scene::items::{Area, Item, MONO, Marks, PAD, Scene, Side, TICK, Thumbnails, Tiles, WIDE};
use crate::figure::scene::limits::{MOST, expect, too_many};
use crate::named::{Axis, NamedTensor};

/// Rows and columns of a small picture.
const SMALL: usize = 32;
/// So many small pictures leave room for the large one beside them; more stand above it.
const BESIDE: usize = 16;

impl Scene {
    pub(super) fn multiples(&mut self, named: &NamedTensor, selected: Option<usize>) -> Result<()> {
        const MOST_MATRICES: usize = 1024;
        let axes = expect(named, 3..=3, MOST)?;
        let (facets, rows, columns) = (&axes[0], &axes[1], &axes[2]);
        if facets.len() > MOST_MATRICES {
            return Err(too_many(named, facets.len(), MOST_MATRICES, "matrices"));
        }
        let values = named.to_vec()?;
        let scale = Scale::of(&values, named.value_kind());
        let whole: Vec<Vec<f32>> = values.chunks(rows.len() * columns.len()).map(<[f32]>::to_vec).collect();
        let chosen = match selected {
            Some(index) if index >= facets.len() => {
                let what = format!(
                    "`{}` has {} matrices: there is no {index} to enlarge",
                    named.name(),
                    facets.len()
                );
                return Err(
                    Error::new(ErrorKind::Figure, what).help(format!("choose 0 to {}", facets.len() - 1))
                );
            }
            Some(index) => index,
            None => most_telling(&whole, columns.len()),
        };

        self.title(named.name());
        let top = self.height;
        let tiles = tiles(top, facets, (rows.len(), columns.len()));
        let area = tiles.area;
        let (corner, room) = if facets.len() <= BESIDE {
            ((area.x + area.w + 40.0, top + 36.0), (430.0, 430.0))
        } else {
            ((PAD, area.y + area.h + 62.0), (560.0, 500.0))
        };
        let (mut panel, end) = cells(corner, (rows, columns), whole[chosen].clone(), scale, room);
        if let Marks::Cells(cells) = &mut panel.marks {
            let lower = rows.len() == columns.len() && whole.iter().all(|m| is_lower(m, columns.len()));
            (cells.lower, cells.short) = (lower, lower);
        }
        self.axis_titles(&panel);
        let heading = (panel.area.x, corner.1 - 18.0);
        let titles: Vec<String> = (0..facets.len()).map(|i| facet_title(facets, i)).collect();
        for (i, title) in titles.iter().enumerate() {
            let (x, y) = tiles.corner(i);
            let text = cut(title, (tiles.tile.0 / (MONO * TICK)) as usize);
            self.text(text, (x, y - 8.0), TICK, MUTED, true, Side::Start);
        }
        self.grow_to(end.0.max(area.x + area.w + PAD), end.1.max(area.y + area.h));
        let small = whole.iter().map(|m| pooled(m, rows.len(), columns.len(), SMALL)).collect();
        let small_shape = (rows.len().min(SMALL), columns.len().min(SMALL));
        self.items.push(Item::Thumbnails(Box::new(Thumbnails {
            tiles,
            titles,
            small,
            small_shape,
            whole,
            chosen,
            enlarged: panel,
            heading,
        })));
        Ok(())
    }
}

/// Where the small pictures of matrices of one shape stand, below `top`.
fn tiles(top: f64, facets: &Axis, (rows, columns): (usize, usize)) -> Tiles {
    let beside = facets.len() <= BESIDE;
    let (gap, head) = (10.0, 16.0);
    let across = if beside { facets.len().div_ceil(4) } else { per_row(facets) };
    let side = if beside { 84.0 } else { ((WIDE + gap) / across as f64 - gap).clamp(24.0, 84.0).floor() };
    let shape = if rows == columns { 1.0 } else { (rows as f64 / columns as f64).clamp(0.4, 1.4) };
    let tile = (side, (side * shape).round());
    let step = (tile.0 + gap, tile.1 + gap + head);
    let down = facets.len().div_ceil(across);
    let area =
        Area { x: PAD, y: top + head, w: across as f64 * step.0 - gap, h: down as f64 * step.1 - gap - head };
    Tiles { area, tile, step, across }
}

/// How many small pictures stand in a row: a layer's heads, where the labels say so.
fn per_row(axis: &Axis) -> usize {
    let layer = |label: &String| label.split_once('H').map(|(layer, _)| layer.to_string());
    let labels = axis.labels().unwrap_or_default();
    let first = labels.first().and_then(layer);
    let same = labels.iter().take_while(|label| first.is_some() && layer(label) == first).count();
    if (4..=16).contains(&same) { same } else { 12 }
}

/// The matrix with the largest value off the diagonal and off the first column, where attention idles.
pub(crate) fn most_telling<M: AsRef<[f32]>>(matrices: &[M], columns: usize) -> usize {
    let most = |matrix: &M| {
        let telling = matrix.as_ref().iter().enumerate().filter(|(i, v)| {
            let (row, column) = (i / columns, i % columns);
            v.is_finite() && column != 0 && column != row
        });
        telling.map(|(_, v)| v.abs()).fold(0.0, f32::max)
    };
    let mut best = (0, 0.0);
    for (i, matrix) in matrices.iter().enumerate() {
        let found = most(matrix);
        if found > best.1 {
            best = (i, found);
        }
    }
    best.0
}
