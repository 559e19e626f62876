"""What the kernels of all tests share."""

import os
import tempfile

import pytest

from cells import PREPARE, START, Kernel

# The history of whoever runs the tests is neither read nor written.
DATA = tempfile.TemporaryDirectory(prefix="headlight-tests-")
os.environ["HEADLIGHT_DATA"] = DATA.name

# Kernels begin as those that Jupyter starts, whoever runs the tests: without what cargo sets for the programs that it starts.
for name in [name for name in os.environ if name.startswith(("CARGO_", "RUST"))]:
    if name not in ("CARGO_HOME", "RUSTUP_HOME"):
        del os.environ[name]


@pytest.fixture(scope="module")
def shared():
    with Kernel() as kernel:
        kernel.ok(PREPARE, START)
        yield kernel


@pytest.fixture
def kernel(shared):
    """The kernel that tests share, with what they expect in it, also after one that failed."""
    variables = shared.run(":vars", START).result or ""
    if "slow" not in variables or "model" not in variables:
        shared.ok(PREPARE, START)
    return shared


@pytest.fixture
def own():
    with Kernel() as kernel:
        yield kernel
