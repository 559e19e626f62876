//! The stacks that models are made of, and the attentions of a block.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One column of blocks on one residual stream. A model of one stack has the main one, whatever it is. Their order is that in
/// which a run goes through those that it has.
///
/// ```
/// use headlight::{Site, Stack};
/// assert_eq!(Site::Pattern.at(3).of(Stack::Encoder).to_string(), "encoder.3.attn.hook_pattern");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stack {
    /// The one stack of a decoder, of an encoder, of a vision model: `blocks.`.
    #[default]
    Main,
    /// The picture of a pair of picture and text: `vision.blocks.`.
    Vision,
    /// The text of it: `text.blocks.`.
    Text,
    /// What reads the source of a translation: `encoder.`.
    Encoder,
    /// What writes its target: `decoder.`.
    Decoder,
}

impl Stack {
    /// Every stack, in their order.
    pub const ALL: [Stack; 5] = [Stack::Main, Stack::Vision, Stack::Text, Stack::Encoder, Stack::Decoder];

    /// The name: `main`, `encoder`, `decoder`, `text`, `vision`.
    pub const fn name(self) -> &'static str {
        match self {
            Stack::Main => "main",
            Stack::Encoder => "encoder",
            Stack::Decoder => "decoder",
            Stack::Text => "text",
            Stack::Vision => "vision",
        }
    }

    /// The letter that its layers, and the names of its heads, begin with: L, E, D, T, V.
    pub(crate) const fn letter(self) -> char {
        match self {
            Stack::Main => 'L',
            Stack::Encoder => 'E',
            Stack::Decoder => 'D',
            Stack::Text => 'T',
            Stack::Vision => 'V',
        }
    }

    /// What stands before a layer's number in the names of its hooks; the first is printed, all are read.
    pub(crate) const fn block_prefixes(self) -> &'static [&'static str] {
        match self {
            Stack::Main => &["blocks."],
            Stack::Encoder => &["encoder.", "encoder_blocks.", "encoder.blocks."],
            Stack::Decoder => &["decoder.", "decoder_blocks.", "decoder.blocks."],
            Stack::Text => &["text.blocks."],
            Stack::Vision => &["vision.blocks."],
        }
    }

    /// What stands before the names of what it has once.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Stack::Main => "",
            Stack::Encoder => "encoder.",
            Stack::Decoder => "decoder.",
            Stack::Text => "text.",
            Stack::Vision => "vision.",
        }
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which attention of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attn {
    /// To the stack's own positions.
    #[default]
    Own,
    /// To the positions of another stack, as a decoder attends to what its encoder read.
    Cross,
}

impl Attn {
    /// What stands before the numbers of its heads: KV where they are those of keys and values that query heads share.
    pub(crate) const fn head_prefix(self, shared: bool) -> &'static str {
        if shared { "KV" } else { self.letter() }
    }

    /// The letter that the names of its heads have: H, or X across stacks.
    pub(crate) const fn letter(self) -> &'static str {
        match self {
            Attn::Own => "H",
            Attn::Cross => "X",
        }
    }
}
