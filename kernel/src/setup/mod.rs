//! Makes the kernel ready: known to Jupyter, and opened in JupyterLab.

pub mod install;
pub mod lab;
