//! What a head may be, by where it attends.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of head, by where it attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeadKind {
    /// Attends to the token after an earlier copy of the current one.
    Induction,
    /// Attends to the token just before.
    PreviousToken,
    /// Attends to an earlier copy of the current token.
    DuplicateToken,
    /// Attends to the current token.
    CurrentToken,
    /// Attends to the first token, where heads rest that have nothing to do.
    FirstToken,
}

impl HeadKind {
    /// Every kind.
    pub const ALL: [HeadKind; 5] = [
        HeadKind::Induction,
        HeadKind::PreviousToken,
        HeadKind::DuplicateToken,
        HeadKind::CurrentToken,
        HeadKind::FirstToken,
    ];

    /// `induction`, `previous_token`, ...: the key in JSON.
    pub fn name(self) -> &'static str {
        match self {
            HeadKind::Induction => "induction",
            HeadKind::PreviousToken => "previous_token",
            HeadKind::DuplicateToken => "duplicate_token",
            HeadKind::CurrentToken => "current_token",
            HeadKind::FirstToken => "first_token",
        }
    }

    /// How far back the attended key lies in tokens that repeat with a period; nothing for the first token.
    pub(crate) fn distance(self, period: usize) -> Option<usize> {
        match self {
            HeadKind::Induction => Some(period - 1),
            HeadKind::PreviousToken => Some(1),
            HeadKind::DuplicateToken => Some(period),
            HeadKind::CurrentToken => Some(0),
            HeadKind::FirstToken => None,
        }
    }

    pub(crate) fn needs_repeats(self) -> bool {
        matches!(self, HeadKind::Induction | HeadKind::DuplicateToken)
    }
}

impl fmt::Display for HeadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().replace('_', " "))
    }
}
