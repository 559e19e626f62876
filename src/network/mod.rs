//! Networks: ids or pixels in, activations through a tap, nothing kept between runs.

pub(crate) mod arch;
pub(crate) mod config;
pub(crate) mod cpu;
pub(crate) mod dims;
mod fold;
pub(crate) mod footprint;
#[allow(clippy::module_inception)]
pub(crate) mod network;
pub(crate) mod param;
pub(crate) mod parts;
pub(crate) mod readout;
pub(crate) mod record;
pub(crate) mod spec;
pub(crate) mod start;
pub(crate) mod tap;
mod watch;
pub(crate) mod weights;

pub use dims::Dims;
pub use spec::{
    ArchSpec, MlpKind, NormKind, NormPlace, Pooling, PositionEncoding, Readout, Reads, Sees, StackSpec,
    Verdict,
};
pub use tap::Tap;
