"""Settings of every test: no engine outlives its test unless the test asks for it, and no deadline for an example."""

import os

from hypothesis import settings

os.environ["PHICHAT_KEEP_ALIVE"] = "0"

# A busy machine is no failure; tests that measure time are marked `timing`.
settings.register_profile("phichat", deadline=None)
settings.load_profile("phichat")
