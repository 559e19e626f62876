//! SentencePiece's unigrams (Kudo and Richardson 2018, "SentencePiece", section 3.2; Kudo 2018, "Subword Regularization"): of all ways to
//! part a text into pieces the likeliest. As SentencePiece computes it, in f32, so that ties fall as there.

use std::collections::HashMap;

/// What stands for a space.
pub(super) const SPACE: char = '▁';

/// A piece: its id, and how likely it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unigram {
    pub(super) id: u32,
    pub(super) score: f32,
    /// Whether it is taken wherever it stands.
    pub(super) is_given: bool,
}

/// All pieces, and what is done with a text before it is cut.
#[derive(Clone, Debug)]
pub(super) struct Unigrams {
    pieces: HashMap<String, Unigram>,
    /// The bytes of the longest.
    longest: usize,
    highest: f32,
    unknown_score: f32,
    unknown: u32,
    /// The pieces of bytes, where what is in no piece is written so.
    pub(super) bytes: Option<Vec<u32>>,
    /// The token behind a text.
    pub(super) end: Option<u32>,
    pub(super) charsmap: Option<Charsmap>,
    pub(super) prefixes: bool,
    pub(super) removes_spaces: bool,
    /// Marian's ids by their names: a stretch that is no piece of the one language may be a name of the other, and a text begins with the
    /// name of the language to be written.
    pub(super) names: Option<HashMap<String, u32>>,
}

impl Unigrams {
    pub(super) fn new(pieces: impl Iterator<Item = (String, Unigram)>, unknown: u32) -> Unigrams {
        // How much less likely than any piece what is unknown is: SentencePiece's kUnkPenalty.
        const PENALTY: f32 = 10.0;
        let pieces: HashMap<String, Unigram> = pieces.collect();
        let scores = || pieces.values().filter(|piece| !piece.is_given).map(|piece| piece.score);
        let (lowest, highest) = (scores().fold(f32::MAX, f32::min), scores().fold(f32::MIN, f32::max));
        Unigrams {
            longest: pieces.keys().map(String::len).max().unwrap_or(0),
            unknown_score: if pieces.is_empty() { -PENALTY } else { lowest - PENALTY },
            highest,
            pieces,
            unknown,
            bytes: None,
            end: None,
            charsmap: None,
            prefixes: true,
            removes_spaces: true,
            names: None,
        }
    }

    /// Marian's mark of the language to be written, which is one token at the beginning: its id, and what is left of the text.
    pub(super) fn language<'t>(&self, text: &'t str) -> (Option<u32>, &'t str) {
        let Some(names) = &self.names else { return (None, text) };
        let first =
            text.strip_prefix(">>").and_then(|rest| rest.chars().next()).filter(|first| *first != '\n');
        let Some(first) = first else { return (None, text) };
        match text[2 + first.len_utf8()..].find("<<") {
            Some(at) if !text[2..2 + first.len_utf8() + at].contains('\n') => {
                let (mark, rest) = text.split_at(2 + first.len_utf8() + at + 2);
                (Some(names.get(mark).copied().unwrap_or(self.unknown)), rest)
            }
            _ => (None, text),
        }
    }

    /// The ids of a text; `begins` where it is not the continuation of another.
    pub(super) fn cut(&self, text: &str, begins: bool) -> Vec<u32> {
        let text = self.normalized(text, begins);
        let mut ids = Vec::new();
        let mut unknown = String::new();
        for (stretch, piece) in self.likeliest(&text) {
            match (piece, &self.bytes) {
                (Some(piece), _) => {
                    self.push_unknown(&mut unknown, &mut ids);
                    ids.push(piece.id);
                }
                (None, Some(bytes)) => ids.extend(stretch.bytes().map(|byte| bytes[usize::from(byte)])),
                (None, None) => unknown.push_str(stretch),
            }
        }
        self.push_unknown(&mut unknown, &mut ids);
        ids
    }

    fn push_unknown(&self, stretch: &mut String, ids: &mut Vec<u32>) {
        if !stretch.is_empty() {
            let named = self.names.as_ref().and_then(|names| names.get(stretch.as_str()));
            ids.push(named.copied().unwrap_or(self.unknown));
            stretch.clear();
        }
    }

    /// A text with what stands for spaces, as its pieces have them.
    fn normalized(&self, text: &str, begins: bool) -> String {
        let mut out = String::with_capacity(text.len() + 8);
        let mut after_space = self.removes_spaces && begins;
        let mut rest = text;
        while !rest.is_empty() {
            let (len, by) = self.charsmap.as_ref().map_or((0, ""), |map| map.longest(rest));
            let (mut said, len) = match len {
                0 => {
                    let len = rest.chars().next().map_or(1, char::len_utf8);
                    (&rest[..len], len)
                }
                len => (by, len),
            };
            if after_space {
                said = said.trim_start_matches(' ');
            }
            if !said.is_empty() {
                said.chars().for_each(|c| out.push(if c == ' ' { SPACE } else { c }));
                after_space = self.removes_spaces && said.ends_with(' ');
            }
            rest = &rest[len..];
        }
        if self.removes_spaces && begins {
            out.truncate(out.trim_end_matches(SPACE).len());
        }
        if self.prefixes && begins && !out.is_empty() {
            out.insert(0, SPACE);
        }
        // Nothing but spaces is nothing.
        if self.removes_spaces && begins && out.chars().all(|c| c == SPACE) {
            out.clear();
        }
        out
    }

    /// The stretches of a text, each with its piece, where it is one.
    fn likeliest<'t>(&self, text: &'t str) -> Vec<(&'t str, Option<Unigram>)> {
        #[derive(Clone, Copy)]
        struct Best {
            score: f32,
            start: usize,
            piece: Option<Unigram>,
        }
        let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
        best[0] = Some(Best { score: 0.0, start: 0, piece: None });
        for (start, c) in text.char_indices() {
            let Some(here) = best[start].map(|best| best.score) else { continue };
            let mut reach = |end: usize, score: f32, piece: Option<Unigram>| {
                let score = score + here;
                if best[end].is_none_or(|best| score > best.score) {
                    best[end] = Some(Best { score, start, piece });
                }
            };
            let mut is_single = false;
            let ends = text[start..].char_indices().map(|(at, c)| at + c.len_utf8());
            for len in ends.take_while(|len| *len <= self.longest) {
                if let Some(&piece) = self.pieces.get(&text[start..start + len]) {
                    let given = len as f32 * self.highest - 0.1;
                    reach(start + len, if piece.is_given { given } else { piece.score }, Some(piece));
                    is_single |= len == c.len_utf8();
                }
            }
            if !is_single {
                reach(start + c.len_utf8(), self.unknown_score, None);
            }
        }
        let mut found = Vec::new();
        let mut end = text.len();
        while let Some(Best { start, piece, .. }) = best[end].filter(|_| end > 0) {
            found.push((&text[start..end], piece));
            end = start;
        }
        found.reverse();
        found
    }
}

/// What characters become: a trie of byte strings (a double array, as darts-clone lays it out), and what each is replaced by.
#[derive(Clone, Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: String,
}

impl Charsmap {
    pub(super) fn read(bytes: &[u8]) -> Result<Charsmap, String> {
        let wrong = || "what it says of normalising is damaged".to_string();
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or_else(wrong)?;
        let len = u32::from_le_bytes(*len) as usize;
        if !len.is_multiple_of(4) || len == 0 || len > rest.len() {
            return Err(wrong());
        }
        let (units, replacements) = rest.split_at(len);
        let unit = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(Charsmap {
            units: units.chunks_exact(4).map(unit).collect(),
            replacements: String::from_utf8(replacements.to_vec()).map_err(|_| wrong())?,
        })
    }

    /// How many bytes of a text's beginning are replaced, as many as can be, and by what; 0 where none are.
    fn longest(&self, text: &str) -> (usize, &str) {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let at = |place: usize| self.units.get(place).copied();
        let mut found = (0, "");
        let Some(first) = at(0) else { return found };
        let mut place = offset(first);
        for (index, byte) in text.bytes().enumerate() {
            place ^= usize::from(byte);
            let Some(unit) = at(place).filter(|unit| unit & (1 << 31 | 0xff) == u32::from(byte)) else {
                break;
            };
            place ^= offset(unit);
            let is_end = unit >> 8 & 1 == 1;
            if let (true, Some(value)) = (is_end && text.is_char_boundary(index + 1), at(place)) {
                let begin = (value & 0x7fff_ffff) as usize;
                if let Some(rest) = self.replacements.get(begin..) {
                    found = (index + 1, &rest[..rest.find('\0').unwrap_or(rest.len())]);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unigrams(pieces: &[(&str, f32)]) -> Unigrams {
        let numbered = pieces
            .iter()
            .zip(10..)
            .map(|((text, score), id)| (text.to_string(), Unigram { id, score: *score, is_given: false }));
        Unigrams::new(numbered, 2)
    }

    #[test]
    fn the_likeliest_way_is_taken() {
        // Two halves at -3 are less likely than the whole at -5.
        let mut all = unigrams(&[("▁ab", -5.0), ("▁a", -3.0), ("b", -3.0), ("▁", -4.0), ("a", -4.0)]);
        assert_eq!(all.cut("ab", true), [10]);
        assert_eq!(all.cut("  a   b ", true), [11, 13, 12]);
        assert_eq!(all.cut("ab", false), [14, 12]);
        // Of what is unknown a stretch is one.
        assert_eq!(all.cut("axyzb", true), [11, 2, 12]);
        assert_eq!(all.cut("", true), [0u32; 0]);
        assert_eq!(all.cut("   ", true), [0u32; 0]);
        all.bytes = Some((1000..1256).collect());
        assert_eq!(all.cut("aé", true), [11, 1000 + 0xc3, 1000 + 0xa9]);
        all.removes_spaces = false;
        assert_eq!(all.cut(" a", true), [13, 11]);
    }

    #[test]
    fn damaged_maps_are_refused_or_do_nothing() {
        for bytes in
            [&[][..], &[1, 0, 0, 0], &[4, 0, 0, 0, 1, 2, 3], &[255; 12], &[4, 0, 0, 0, 0, 0, 0, 0, 0xff]]
        {
            assert!(Charsmap::read(bytes).is_err(), "{bytes:?}");
        }
        let mut state = 7u32;
        let mut bytes = vec![64, 0, 0, 0];
        bytes.extend((0..80).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 25) as u8
        }));
        if let Ok(map) = Charsmap::read(&bytes) {
            assert!(map.longest("the cat").0 <= 7);
        }
    }
}
