//! SentencePiece's BPE (Kudo and Richardson 2018, "SentencePiece", section 3.2): of all neighbours that make a piece, those whose
//! piece scores best are joined first, the leftmost of equals. A list of ranked pairs, as `tokenizer.json` has it, cannot say
//! that: pairs that make the same piece are equals here.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The pieces of a vocabulary, and how likely each is.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    pieces: HashMap<String, Piece>,
    /// What stands for a character that is in no piece, where its bytes are none either.
    unknown: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    id: u32,
    score: f32,
}

/// A stretch of the text that is one piece, or a character that is none.
struct Symbol {
    start: usize,
    end: usize,
    before: Option<usize>,
    after: Option<usize>,
}

/// Two neighbours that make a piece. The greatest is joined first.
struct Pair {
    score: f32,
    left: Reverse<usize>,
    right: usize,
    /// How long both were together: a symbol that has grown since is another pair.
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(self.left.cmp(&other.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

impl Pieces {
    /// From the pieces in the order of their ids, with their scores.
    pub(crate) fn new(pieces: impl IntoIterator<Item = (String, f32)>, unknown: Option<u32>) -> Pieces {
        let numbered = (0..).zip(pieces);
        Pieces { pieces: numbered.map(|(id, (text, score))| (text, Piece { id, score })).collect(), unknown }
    }

    /// The ids of a text, which is normalized already.
    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        let mut symbols: Vec<Symbol> = (text.char_indices().enumerate())
            .map(|(index, (start, c))| Symbol {
                start,
                end: start + c.len_utf8(),
                before: index.checked_sub(1),
                after: Some(index + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.after = None;
        }
        let pair = |symbols: &[Symbol], left: usize, right: usize| {
            let joined = &text[symbols[left].start..symbols[right].end];
            let score = self.pieces.get(joined)?.score;
            Some(Pair { score, left: Reverse(left), right, len: joined.len() })
        };
        let mut pairs: BinaryHeap<Pair> =
            (1..symbols.len()).filter_map(|right| pair(&symbols, right - 1, right)).collect();
        while let Some(Pair { left: Reverse(left), right, len, .. }) = pairs.pop() {
            let end = symbols[right].end;
            if symbols[left].after != Some(right) || symbols[left].start + len != end {
                continue;
            }
            // What was joined to its left neighbour is no symbol any more.
            let after = symbols[right].after;
            symbols[right].before = None;
            symbols[right].after = None;
            symbols[left].end = end;
            symbols[left].after = after;
            if let Some(before) = symbols[left].before {
                pairs.extend(pair(&symbols, before, left));
            }
            if let Some(after) = after {
                symbols[after].before = Some(left);
                pairs.extend(pair(&symbols, left, after));
            }
        }
        let mut ids = Vec::new();
        let mut at = (!symbols.is_empty()).then_some(0);
        while let Some(symbol) = at.map(|index| &symbols[index]) {
            self.push(&text[symbol.start..symbol.end], &mut ids);
            at = symbol.after;
        }
        ids
    }

    /// A piece, or the bytes of a character that is none.
    fn push(&self, symbol: &str, ids: &mut Vec<u32>) {
        if let Some(piece) = self.pieces.get(symbol) {
            return ids.push(piece.id);
        }
        let bytes =
            symbol.bytes().map(|byte| self.pieces.get(&format!("<0x{byte:02X}>")).map(|piece| piece.id));
        match (bytes.collect::<Option<Vec<u32>>>(), self.unknown) {
            (Some(bytes), _) => ids.extend(bytes),
            (None, Some(unknown)) if ids.last() != Some(&unknown) => ids.push(unknown),
            (None, _) => {}
        }
    }
}
