//! Two rows of words, and ribbons between them; two columns where the rows would be too long.

use crate::error::Result;
use crate::figure::label::{cut, make_visible, width};
use crate::figure::scale::{INK, MUTED, Scale, number};
use crate::figure::scene::items::{
    Area, CHIP_FONT, Item, MONO, PAD, Ribbon, Ribbons, Scene, Side, TICK, WIDE,
};
use crate::figure::scene::limits::expect;
use crate::named::{Axis, NamedTensor};

/// A ribbon of the whole of a word's attention is so wide.
const WIDEST: f64 = 14.0;
/// What has less of it than this is not drawn.
const LEAST: f32 = 0.04;
const MOST_WORDS: usize = 4096;

impl Scene {
    /// `widths` and `effects` are `[target, source]`.
    pub(super) fn ribbons(&mut self, widths: &NamedTensor, effects: Option<&NamedTensor>) -> Result<()> {
        let axes = expect(widths, 2..=2, MOST_WORDS)?;
        let (targets, sources) = (words(&axes[0]), words(&axes[1]));
        let values = widths.to_vec()?;
        let colours = effects.map(NamedTensor::to_vec).transpose()?;
        let scale = Scale::of_effects(colours.as_deref().unwrap_or(&[]));
        self.title(widths.name());
        let advance = MONO * CHIP_FONT;
        let wide = |words: &[String]| -> Vec<f64> {
            words.iter().map(|word| width(word).max(2) as f64 * advance + 12.0).collect()
        };
        let (of_targets, of_sources) = (wide(&targets), wide(&sources));
        let total = |all: &[f64]| all.iter().sum::<f64>();
        let across = total(&of_targets).max(total(&of_sources)) <= WIDE;
        // Where each word stands: along its row or column, and the room between the two.
        let (gap, line) = (if across { 120.0 } else { 220.0 }, 24.0);
        let margin = 56.0;
        let centres = |all: &[f64], room: f64| -> Vec<f64> {
            let sizes: Vec<f64> = if across { all.to_vec() } else { vec![line; all.len()] };
            let mut at = (room - total(&sizes)) / 2.0;
            let mut centre = |size: &f64| {
                at += size;
                at - size / 2.0
            };
            sizes.iter().map(&mut centre).collect()
        };
        let room = match across {
            true => total(&of_targets).max(total(&of_sources)),
            false => line * targets.len().max(sources.len()) as f64,
        };
        let (at_targets, at_sources) = (centres(&of_targets, room), centres(&of_sources, room));
        let top = self.height;
        let left_words = of_sources.iter().copied().fold(0.0, f64::max);
        let right_words = of_targets.iter().copied().fold(0.0, f64::max);
        let (first, second, area) = if across {
            let (first, second) = (top + 14.0, top + 14.0 + line + gap);
            (first, second, Area { x: PAD + margin, y: first + 12.0, w: room, h: second - first - 24.0 })
        } else {
            let (first, second) = (PAD + left_words, PAD + left_words + gap);
            (first, second, Area { x: first + 4.0, y: top + 14.0, w: second - first - 8.0, h: room })
        };
        for (words, centres, of_source) in [(&sources, &at_sources, true), (&targets, &at_targets, false)] {
            for (word, centre) in words.iter().zip(centres) {
                let (at, side) = match (across, of_source) {
                    (true, true) => ((area.x + centre, first), Side::Middle),
                    (true, false) => ((area.x + centre, second), Side::Middle),
                    (false, true) => ((first, area.y + centre), Side::End),
                    (false, false) => ((second, area.y + centre), Side::Start),
                };
                self.text(word.clone(), at, CHIP_FONT, INK, true, side);
            }
        }
        if across {
            self.text("source", (PAD, first), TICK, MUTED, false, Side::Start);
            self.text("target", (PAD, second), TICK, MUTED, false, Side::Start);
        } else {
            self.text("source", (first, top), TICK, MUTED, false, Side::End);
            self.text("target", (second, top), TICK, MUTED, false, Side::Start);
        }
        let mut all = Vec::new();
        for (index, &share) in values.iter().enumerate().filter(|(_, share)| **share >= LEAST) {
            let (target, source) = (index / sources.len(), index % sources.len());
            let effect = colours.as_ref().map(|all| all[index]);
            let (from, to) = (at_sources[source], at_targets[target]);
            let (from, to) = match across {
                true => ((area.x + from, area.y), (area.x + to, area.y + area.h)),
                false => ((area.x, area.y + from), (area.x + area.w, area.y + to)),
            };
            let caused = effect.map_or(String::new(), |effect| format!(", {} nats", number(effect)));
            all.push(Ribbon {
                from,
                to,
                width: f64::from(share.min(1.0)) * WIDEST,
                value: effect.unwrap_or(0.0),
                hover: format!("{} – {}: {}{caused}", sources[source], targets[target], number(share)),
            });
        }
        // The wide ones below, where they hide nothing.
        all.sort_by(|a, b| b.width.total_cmp(&a.width));
        let bottom = if across { second + line } else { area.y + area.h + 6.0 };
        let right = if across { area.x + area.w } else { second + right_words };
        let bar = colours.is_some().then_some(Area {
            x: right + 28.0,
            y: top + 20.0,
            w: 12.0,
            h: (bottom - top - 40.0).clamp(60.0, 180.0),
        });
        if let Some(bar) = &bar {
            self.scale_title(&scale, bar);
        }
        let edge = bar.as_ref().map_or(right + PAD, |bar| bar.x + 80.0);
        self.items.push(Item::Ribbons(Ribbons { area, across, all, scale, bar }));
        self.grow_to(edge, bottom.max(bar.map_or(0.0, |bar| bar.y + bar.h + 6.0)));
        Ok(())
    }
}

fn words(axis: &Axis) -> Vec<String> {
    (0..axis.len()).map(|index| cut(&make_visible(&axis.label(index)), 24)).collect()
}
