//! Makes the kernel ready: known to Jupyter, and opened in JupyterLab; and says what is missing.

pub mod doctor;
pub mod install;
mod jupyterlab;
pub mod lab;
