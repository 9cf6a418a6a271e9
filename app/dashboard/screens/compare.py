"""The page `/compare`."""

from headscope.app.dashboard import compare

compare.show()
