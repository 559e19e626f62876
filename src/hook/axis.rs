//! What the axes of activations count.

/// What an axis of an activation counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AxisKind {
    /// Tokens.
    Position,
    /// Tokens that attend.
    Query,
    /// Tokens that are attended to.
    Key,
    /// Attention heads.
    Head,
    /// Heads of keys and values, which several attention heads may share.
    KvHead,
    /// The width of the residual stream.
    DModel,
    /// The width of a head.
    DHead,
    /// Neurons of an MLP.
    DMlp,
    /// The one number by which a norm divides.
    Scale,
    /// Tokens of the vocabulary.
    Vocabulary,
    /// Classes that a model tells apart.
    Class,
    /// The width of the embeddings whose similarity a pair of towers is read out by.
    DProjected,
}

impl AxisKind {
    /// The axis's name: `position`, `head`, `d_model`, ...
    pub const fn name(self) -> &'static str {
        match self {
            AxisKind::Position => "position",
            AxisKind::Query => "query",
            AxisKind::Key => "key",
            AxisKind::Head | AxisKind::KvHead => "head",
            AxisKind::DModel => "d_model",
            AxisKind::DHead => "d_head",
            AxisKind::DMlp => "d_mlp",
            AxisKind::Scale => "scale",
            AxisKind::Vocabulary => "d_vocab",
            AxisKind::Class => "class",
            AxisKind::DProjected => "d_projected",
        }
    }

    /// Whether its entries are the tokens of the input.
    pub(crate) const fn is_of_tokens(self) -> bool {
        matches!(self, AxisKind::Position | AxisKind::Query | AxisKind::Key)
    }
}
