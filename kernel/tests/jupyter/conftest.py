"""What the kernels of all tests share."""

import os
import tempfile

# The history of whoever runs the tests is neither read nor written.
DATA = tempfile.TemporaryDirectory(prefix="headlight-tests-")
os.environ["HEADLIGHT_DATA"] = DATA.name

# Kernels begin as those that Jupyter starts, whoever runs the tests: without what cargo sets for the programs that it starts.
for name in [name for name in os.environ if name.startswith(("CARGO_", "RUST"))]:
    if name not in ("CARGO_HOME", "RUSTUP_HOME"):
        del os.environ[name]
