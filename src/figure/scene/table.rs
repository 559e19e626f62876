//! Rows of words and numbers.

use crate::figure::label::{cell, cut, width, wrap};
use crate::figure::scale::MUTED;
use crate::figure::scene::items::{
    Area, Column, Grid, Item, LINE, MONO, PAD, Scene, Side, TABLE_FONT, TABLE_LINE, TABLE_ROW, WIDE,
};
use crate::markup::plain;
use crate::view::Table;

impl Scene {
    pub(super) fn table(&mut self, table: &Table) {
        const ROWS: usize = 200;
        self.title(table.title());
        let widest = if table.columns().len() > 4 { 28 } else { 56 };
        let shown = table.rows().len().min(ROWS);
        let texts: Vec<Vec<String>> = (0..table.columns().len())
            .map(|i| table.rows()[..shown].iter().map(|row| cell(&row[i])).collect())
            .collect();
        let wide = |room: usize| room as f64 * MONO * TABLE_FONT + 24.0;
        let heads = table.columns().iter().map(|head| width(&plain(head)).min(widest));
        let mut rooms: Vec<usize> = (texts.iter().zip(heads))
            .map(|(texts, head)| texts.iter().map(|text| width(text).min(widest)).chain([head, 1]).max())
            .map(|most| most.unwrap_or(1))
            .collect();
        // What is wide is text: it is wrapped before a number is.
        while rooms.iter().map(|&room| wide(room)).sum::<f64>() > WIDE {
            match rooms.iter_mut().max() {
                Some(room) if *room > 1 => *room -= 1,
                _ => break,
            }
        }
        let columns: Vec<Column> = (texts.iter().zip(&rooms))
            .map(|(texts, &room)| Column {
                width: wide(room),
                right: !texts.is_empty() && texts.iter().all(|text| text.is_empty() || is_number(text)),
                cells: texts.iter().map(|text| wrap(text, room)).collect(),
            })
            .collect();
        let head =
            (table.columns().iter().zip(&rooms)).map(|(head, room)| cut(&plain(head), *room)).collect();
        let rows: Vec<f64> = (0..shown)
            .map(|row| columns.iter().map(|column| column.cells[row].len()).max().unwrap_or(1))
            .map(|lines| TABLE_ROW + (lines - 1) as f64 * TABLE_LINE)
            .collect();
        let area = Area {
            x: PAD,
            y: self.height,
            w: columns.iter().map(|column| column.width).sum(),
            h: TABLE_ROW + rows.iter().sum::<f64>(),
        };
        self.grow_to(PAD + area.w + PAD, area.y + area.h + 2.0);
        if table.rows().len() > shown {
            let note = format!("{} more rows", table.rows().len() - shown);
            self.text(note, (PAD, self.height + 10.0), 12.0, MUTED, false, Side::Start);
            self.height += LINE;
        }
        self.items.push(Item::Table(Grid { area, head, columns, rows }));
    }
}

fn is_number(text: &str) -> bool {
    text.trim_end_matches('%').trim().parse::<f64>().is_ok()
}
