//! Models of the Hugging Face hub, by way of the cache that Python's libraries share.

mod cache;
mod download;
mod http;
mod names;
mod repository;
mod settings;

pub(crate) use cache::snapshot;
pub(crate) use names::is_repo;
pub(crate) use repository::Hub;
pub(crate) use settings::Settings;
