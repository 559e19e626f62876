//! A decoder that goes on, token by token, from what an encoder made of a source.

use candle_core::Tensor;

use crate::error::Result;
use crate::hook::Stack;
use crate::model::input::Tokens;
use crate::model::model::Model;
use crate::network::record::Record;
use crate::network::start::{Batch, Known, Past, Start};

/// Several continuations of one source, each a row of a batch. The encoder runs once, and each token is read once.
pub(crate) struct Writer<'a> {
    model: &'a Model,
    decoder: Stack,
    known: Known,
    past: Past,
    rows: usize,
}

impl<'a> Writer<'a> {
    /// One continuation, which has read nothing.
    pub(crate) fn new(model: &'a Model, source: &Tokens) -> Result<Writer<'a>> {
        let [of_source, decoder] = model.spec().encoder_and_decoder("what is written")?;
        let pieces = [(of_source.stack, vec![source.clone()])].into();
        let known = Known { batch: model.batch(&pieces)?, ..Known::default() };
        Ok(Writer { model, decoder: decoder.stack, known, past: Past::default(), rows: 1 })
    }

    /// Reads a token in each row, and gives the logits of what comes next `[row][d_vocab]`.
    pub(crate) fn read(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let tokens = Tensor::new(tokens, self.model.device())?.unsqueeze(1)?; // [row, 1]
        let batch = std::mem::take(&mut self.known.batch).with(self.decoder, tokens, None);
        let known = Known { batch, finished: std::mem::take(&mut self.known.finished) };
        let mut logits = Record::logits().at_positions(Some(vec![0]));
        self.known = self.model.execute(Start::Inputs(known), Some(&mut self.past), &mut logits)?;
        Ok(logits.only()?.squeeze(1)?.to_vec2()?)
    }

    /// Goes on with these rows, each as often as it is named.
    pub(crate) fn select(&mut self, rows: &[u32]) -> Result<()> {
        let stays =
            rows.len() == self.rows && rows.iter().enumerate().all(|(index, &row)| index == row as usize);
        if stays {
            return Ok(());
        }
        self.past = self.past.select(rows, self.model.device())?;
        if rows.len() != self.rows {
            // All rows are of one source.
            let first = Known {
                batch: Batch::default(),
                finished: std::mem::take(&mut self.known.finished)
                    .into_iter()
                    .map(|(stack, stream)| Ok((stack, stream.narrow(0, 0, 1)?)))
                    .collect::<Result<_>>()?,
            };
            self.known = first.repeat(rows.len(), |_| true)?;
            self.rows = rows.len();
        }
        Ok(())
    }
}
