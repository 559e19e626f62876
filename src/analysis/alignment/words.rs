//! The words that pieces make up.

use std::ops::Range;

use crate::hook::Stack;
use crate::model::input::Tokens;
use crate::model::model::Model;

/// The words of a text as a model reads it: which positions each has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    spans: Vec<Range<usize>>,
    labels: Vec<String>,
    /// Whether each piece is a word, for no spaces part the text.
    are_pieces: bool,
}

/// What stands for a space before a piece.
const SPACES: [char; 3] = [' ', '▁', 'Ġ'];

impl Words {
    /// Of pieces, without those that are none of the text, which is `said`. Words are what spaces part; where nothing does each piece is a
    /// word.
    fn of(pieces: &[String], said: &str, is_text: impl Fn(usize) -> bool) -> Words {
        let begins = |piece: &String| piece.starts_with(SPACES);
        let text: Vec<usize> = (0..pieces.len()).filter(|&index| is_text(index)).collect();
        // Whole words say nothing of the spaces between them.
        let are_whole = !text.iter().skip(1).any(|&index| begins(&pieces[index]));
        let are_pieces = are_whole && text.len() > 1 && !said.trim().contains(char::is_whitespace);
        let mut words = Words { spans: Vec::new(), labels: Vec::new(), are_pieces };
        for index in text {
            let piece = pieces[index].trim_start_matches(SPACES);
            match (words.spans.last_mut(), words.labels.last_mut()) {
                (Some(span), Some(label)) if !are_whole && !begins(&pieces[index]) && span.end == index => {
                    span.end = index + 1;
                    label.push_str(piece);
                }
                _ => {
                    words.spans.push(index..index + 1);
                    words.labels.push(piece.to_string());
                }
            }
        }
        words
    }

    /// Of a source, whose end is no word of it.
    pub(crate) fn of_source(model: &Model, tokens: &Tokens, special: &[u32]) -> Words {
        Words::of_tokens(model, model.spec().stacks()[0].stack, tokens.ids(), tokens.labels(), special)
    }

    /// Of a target, by the rows that write it.
    pub(crate) fn of_target(model: &Model, tokens: &Tokens, special: &[u32]) -> Words {
        Words::of_tokens(
            model,
            model.spec().last_stack().stack,
            &tokens.next_ids(),
            &tokens.next_labels(),
            special,
        )
    }

    fn of_tokens(model: &Model, stack: Stack, ids: &[u32], labels: &[String], special: &[u32]) -> Words {
        Words::of(labels, &model.text_of(stack, ids), |index| is_word(ids[index], &labels[index], special))
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(crate) fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The positions of a word.
    pub(crate) fn span(&self, word: usize) -> Range<usize> {
        self.spans[word].clone()
    }

    pub(crate) fn are_pieces(&self) -> bool {
        self.are_pieces
    }
}

/// Whether a token is of the text: neither one that stands for none, nor a language's mark.
fn is_word(id: u32, label: &str, special: &[u32]) -> bool {
    let label = label.trim_start_matches(SPACES);
    let marks = label.starts_with(">>") && label.ends_with("<<");
    !marks && !special.contains(&id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pieces: &[&str], said: &str) -> (Vec<String>, bool) {
        let pieces: Vec<String> = pieces.iter().map(ToString::to_string).collect();
        let words = Words::of(&pieces, said, |index| pieces[index] != "</s>");
        (words.labels.clone(), words.are_pieces)
    }

    #[test]
    fn pieces_make_up_words() {
        let said = |labels: &[&str]| labels.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(words(&["▁The", "▁fro", "g", ".", "</s>"], "The frog."), (said(&["The", "frog."]), false));
        assert_eq!(words(&["Un", " chat", "on", "</s>"], "Un chaton"), (said(&["Un", "chaton"]), false));
        // Parted by nothing: each piece is a word.
        assert_eq!(words(&["我", "喜欢", "书", "</s>"], "我喜欢书"), (said(&["我", "喜欢", "书"]), true));
        // Whole words, whose spaces are not theirs.
        assert_eq!(words(&["a", "cat", "</s>"], "a cat"), (said(&["a", "cat"]), false));
        assert_eq!(words(&["</s>"], ""), (said(&[]), false));
        let pieces = ["▁a", "b", "▁c"].map(String::from);
        let words = Words::of(&pieces, "ab c", |_| true);
        assert_eq!((words.span(0), words.span(1)), (0..2, 2..3));
    }
}
