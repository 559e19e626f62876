//! How a decoder that reads an encoder writes: what `generation_config.json`, or else `config.json`, says of it, under transformers' names.

use serde::Deserialize;
use serde_json::Value;

/// What stands for the files where these say nothing.
#[derive(Clone, Debug)]
pub(crate) struct Decoding {
    /// Sequences that are never written; of one token, that token.
    bad_words: Vec<Vec<u32>>,
    forced_bos: Option<u32>,
    forced_eos: Vec<u32>,
    /// The longest sequence, the start included.
    pub(crate) max_length: Option<usize>,
    min_length: usize,
    pub(crate) length_penalty: f64,
    no_repeat_ngram: usize,
    pub(crate) early_stopping: EarlyStopping,
    eos: Vec<u32>,
}

/// When beam search is through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EarlyStopping {
    /// When as many are finished as there are beams.
    Yes,
    /// When none that runs is likely to become better.
    #[default]
    No,
    /// When none that runs can become better.
    Never,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entries {
    bad_words_ids: Option<Vec<Vec<u32>>>,
    forced_bos_token_id: Option<u32>,
    forced_eos_token_id: Option<OneOrMany>,
    max_length: Option<usize>,
    min_length: Option<usize>,
    length_penalty: Option<f64>,
    no_repeat_ngram_size: Option<usize>,
    early_stopping: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl Decoding {
    /// What a file says. Ids that the vocabulary has not are passed over, as nothing can write them.
    pub(crate) fn read(said: &Value, eos: &[u32], d_vocab: usize) -> serde_json::Result<Decoding> {
        let said = Entries::deserialize(said)?;
        let known = |id: &u32| (*id as usize) < d_vocab;
        let mut bad_words = said.bad_words_ids.unwrap_or_default();
        // Were the end forbidden, nothing would end.
        bad_words.retain(|word| {
            !word.is_empty() && word.iter().all(known) && !eos.iter().any(|end| word == &[*end])
        });
        let mut forced_eos = match said.forced_eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![id],
            Some(OneOrMany::Many(ids)) => ids,
        };
        forced_eos.retain(known);
        Ok(Decoding {
            bad_words,
            forced_bos: said.forced_bos_token_id.filter(known),
            forced_eos,
            max_length: said.max_length,
            min_length: said.min_length.unwrap_or(0),
            length_penalty: said.length_penalty.filter(|penalty| penalty.is_finite()).unwrap_or(1.0),
            no_repeat_ngram: said.no_repeat_ngram_size.unwrap_or(0),
            early_stopping: match said.early_stopping {
                Some(Value::Bool(true)) => EarlyStopping::Yes,
                Some(Value::String(said)) if said == "never" => EarlyStopping::Never,
                _ => EarlyStopping::No,
            },
            eos: eos.to_vec(),
        })
    }

    /// Leaves of the scores of what comes next those alone that may be written behind `read`, of which the start is the first, where the
    /// longest sequence has `max_length` tokens.
    pub(crate) fn constrain(&self, read: &[u32], max_length: usize, scores: &mut [f32]) {
        let mut forbid = |id: u32| {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = f32::NEG_INFINITY;
            }
        };
        let size = self.no_repeat_ngram;
        if size > 0 && read.len() >= size {
            let last = &read[read.len() + 1 - size..];
            let again = read.windows(size).filter(|window| window.starts_with(last));
            again.filter_map(|window| window.last()).for_each(|id| forbid(*id));
        }
        for word in &self.bad_words {
            if let Some((last, before)) = word.split_last()
                && read.ends_with(before)
            {
                forbid(*last);
            }
        }
        if read.len() < self.min_length {
            self.eos.iter().for_each(|id| forbid(*id));
        }
        let forced: &[u32] = match &self.forced_bos {
            Some(id) if read.len() == 1 => std::slice::from_ref(id),
            _ if read.len() + 1 == max_length => &self.forced_eos,
            _ => &[],
        };
        if !forced.is_empty() {
            for (id, score) in scores.iter_mut().enumerate() {
                *score = if forced.contains(&(id as u32)) { 0.0 } else { f32::NEG_INFINITY };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn left(said: &Value, read: &[u32], max_length: usize) -> Vec<usize> {
        let decoding = Decoding::read(said, &[1], 6).expect("a config");
        let mut scores = [0f32; 6];
        decoding.constrain(read, max_length, &mut scores);
        (0..6).filter(|&id| scores[id].is_finite()).collect()
    }

    /// Each rule by hand, in a vocabulary of six.
    #[test]
    fn what_may_be_written() {
        let all = vec![0, 1, 2, 3, 4, 5];
        assert_eq!(left(&json!({}), &[0, 2], 10), all);
        assert_eq!(left(&json!({"bad_words_ids": [[0], [2, 3], [1], [77], []]}), &[0, 2], 10), [1, 2, 4, 5]);
        assert_eq!(left(&json!({"bad_words_ids": [[0], [2, 3]]}), &[0, 4], 10), [1, 2, 3, 4, 5]);
        // 2 3 and 3 2 have been there; 2 is last.
        assert_eq!(left(&json!({"no_repeat_ngram_size": 2}), &[0, 2, 3, 2], 10), [0, 1, 2, 4, 5]);
        assert_eq!(left(&json!({"no_repeat_ngram_size": 3}), &[0, 2], 10), all);
        assert_eq!(left(&json!({"no_repeat_ngram_size": 1}), &[0, 2], 10), [1, 3, 4, 5]);
        assert_eq!(left(&json!({"min_length": 3}), &[0, 2], 10), [0, 2, 3, 4, 5]);
        assert_eq!(left(&json!({"forced_bos_token_id": 4}), &[0], 10), [4]);
        assert_eq!(left(&json!({"forced_bos_token_id": 4}), &[0, 4], 10), all);
        assert_eq!(left(&json!({"forced_eos_token_id": 1}), &[0, 4], 3), [1]);
        assert_eq!(left(&json!({"forced_eos_token_id": [1, 2]}), &[0, 4], 3), [1, 2]);
        assert_eq!(left(&json!({"forced_eos_token_id": 1}), &[0, 4], 4), all);
    }
}
