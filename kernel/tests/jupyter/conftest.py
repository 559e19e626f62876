"""What the kernels of all tests share."""

import os
import tempfile

# The history of whoever runs the tests is neither read nor written.
DATA = tempfile.TemporaryDirectory(prefix="headlight-tests-")
os.environ["HEADLIGHT_DATA"] = DATA.name
