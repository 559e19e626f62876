//! Running text, each piece on its colour.

use crate::error::Result;
use crate::figure::label::{cut, entry, make_visible, width};
use crate::figure::scale::Scale;
use crate::figure::scene::items::{Area, CHIP_FONT, Chip, Item, MONO, PAD, Scene, TokenChips};
use crate::figure::scene::limits::expect;
use crate::named::NamedTensor;

impl Scene {
    pub(super) fn tokens(&mut self, named: &NamedTensor) -> Result<()> {
        let axes = expect(named, 1..=1, 8192)?;
        let values = named.to_vec()?;
        let scale = Scale::of(&values, named.value_kind());
        self.title(named.name());
        const ROOM: f64 = 700.0;
        let (advance, line, inner) = (MONO * CHIP_FONT, 28.0, 5.0);
        let (mut x, mut y) = (0.0, 0.0);
        let mut pieces = Vec::with_capacity(values.len());
        for (i, value) in values.iter().enumerate() {
            let label = axes[0].label(i);
            // A space within running text shows as one: the coloured ground says where the piece begins.
            let blank = label.trim_matches(' ').is_empty();
            let text = if blank {
                make_visible(&label)
            } else {
                make_visible(&label).replace(['·', ' '], "\u{a0}")
            };
            let text = cut(&text, 60);
            let w = (width(&text).max(1) as f64 * advance + inner).ceil();
            if x > 0.0 && x + w > ROOM {
                (x, y) = (0.0, y + line);
            }
            let area = Area { x: PAD + x, y: self.height + y, w, h: line - 5.0 };
            pieces.push(Chip { area, text, hover: entry(&axes[0], i), value: *value });
            x += w + 2.0;
            if label.ends_with('\n') {
                (x, y) = (0.0, y + line);
            }
        }
        let bottom = self.height + y + if x > 0.0 { line } else { 0.0 };
        let used = pieces.iter().map(|p| p.area.x + p.area.w).fold(0.0, f64::max);
        let area = Area { x: PAD, y: self.height, w: used - PAD, h: bottom - self.height };
        let bar =
            Area { x: used + 20.0, y: self.height + 20.0, w: 12.0, h: (area.h - 20.0).clamp(60.0, 180.0) };
        self.scale_title(&scale, &bar);
        self.items.push(Item::TokenChips(TokenChips { area, pieces, scale, bar }));
        self.grow_to(bar.x + 70.0, bottom.max(bar.y + bar.h + 6.0));
        Ok(())
    }
}
