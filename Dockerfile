# JupyterLab with the notebooks, ready to run: Binder and repo2docker read this file, as does
# `docker build -t headlight .`, then `docker run -p 8888:8888 headlight`.
# What it installs comes from Debian, PyPI, crates.io and static.rust-lang.org.
FROM rust:1.95-slim-trixie

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Binder builds for a user of this name and number.
ARG NB_USER=jovyan
ARG NB_UID=1000
ENV USER=${NB_USER} HOME=/home/${NB_USER}
RUN useradd --create-home --uid ${NB_UID} --shell /bin/bash ${NB_USER} \
    && chown -R ${NB_UID} "${CARGO_HOME}" "${RUSTUP_HOME}"

COPY --chown=${NB_UID} . ${HOME}/headlight
USER ${NB_USER}
WORKDIR ${HOME}/headlight

ENV PATH=${HOME}/venv/bin:${PATH}
RUN python3 -m venv ${HOME}/venv \
    && pip install --no-cache-dir jupyterlab==4.6.6 notebook==7.6.5 jupyterhub==6.1.1 plotly==6.9.0

# The kernel, and what its notebooks start from. Cells are compiled, so the compiler stays, and so do the crates.
RUN rustup component add rust-src \
    && cargo build --release --locked -p headlight-kernel \
    && mv target/release/headlight-kernel ${HOME}/venv/bin/ \
    && headlight-kernel install --prefix ${HOME}/venv \
    && rm -r target

WORKDIR ${HOME}/headlight/notebooks
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser"]
