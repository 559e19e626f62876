//! Attention heads.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};
use crate::hook::hook::Hook;
use crate::hook::site::Site;
use crate::hook::stack::{Attn, Stack};

/// One attention head. Prints and parses as `L5H1`; in other stacks than the main one as `E1H0`, `D1H0`, `T1H0` or `V1H0`, and as
/// `D1X0` where it attends to another stack.
///
/// ```
/// use headlight::{Head, Stack, head};
/// assert_eq!("L5H1".parse::<Head>()?, head(5, 1));
/// assert_eq!(head(5, 1).to_string(), "L5H1");
/// assert_eq!(head(1, 0).of(Stack::Decoder).cross().to_string(), "D1X0");
/// # Ok::<(), headlight::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Head {
    /// The stack that it is in.
    pub stack: Stack,
    /// The layer, from 0.
    pub layer: usize,
    /// Which attention of the layer it is of.
    pub attn: Attn,
    /// The head within its attention, from 0.
    pub head: usize,
}

/// The head `head` of layer `layer`, both from 0.
pub const fn head(layer: usize, head: usize) -> Head {
    Head { stack: Stack::Main, layer, attn: Attn::Own, head }
}

impl Head {
    /// The same in another stack.
    pub const fn of(self, stack: Stack) -> Head {
        Head { stack, ..self }
    }

    /// The same of cross-attention.
    pub const fn cross(self) -> Head {
        Head { attn: Attn::Cross, ..self }
    }

    /// Fails unless its attention, which is `of` a model or a stack, has so many layers of heads.
    pub(crate) fn check(self, n_layers: usize, n_heads: usize, of: &str) -> Result<Head> {
        if self.layer < n_layers && self.head < n_heads {
            return Ok(self);
        }
        let first = Head { layer: 0, head: 0, ..self };
        let last = Head { layer: n_layers.saturating_sub(1), head: n_heads.saturating_sub(1), ..self };
        Err(Error::new(
            ErrorKind::Address,
            format!("there is no head {self}: the {of} has {n_layers} layers of {n_heads} heads"),
        )
        .help(format!("heads are {first} to {last}")))
    }

    /// The activation of all heads of its attention.
    ///
    /// ```
    /// use headlight::{Site, head};
    /// assert_eq!(head(5, 1).hook(Site::Pattern).to_string(), "blocks.5.attn.hook_pattern");
    /// ```
    pub const fn hook(self, site: Site) -> Hook {
        site.at(self.layer).of(self.stack).with_attn(self.attn)
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}{}", self.stack.letter(), self.layer, self.attn.letter(), self.head)
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Head {
    type Err = Error;

    /// Reads `L5H1`, and the `5.1` of the literature.
    fn from_str(text: &str) -> Result<Head> {
        parse(text.trim()).ok_or_else(|| {
            Error::new(ErrorKind::Address, format!("`{text}` is not a head"))
                .help("write layer and head as L5H1 (or 5.1), both from 0")
        })
    }
}

fn parse(text: &str) -> Option<Head> {
    let first = text.chars().next()?.to_ascii_uppercase();
    let Some(stack) = Stack::ALL.into_iter().find(|stack| stack.letter() == first) else {
        let (layer, index) = text.split_once('.')?;
        return Some(head(layer.parse().ok()?, index.parse().ok()?));
    };
    let rest = &text[1..];
    let (at, kind) = rest.char_indices().find(|(_, c)| c.is_ascii_alphabetic())?;
    let found = head(rest[..at].parse().ok()?, rest[at + 1..].parse().ok()?).of(stack);
    match kind.to_ascii_uppercase() {
        'H' => Some(found),
        'X' => Some(found.cross()),
        _ => None,
    }
}
