"""The page `/policy`."""

from headscope.app.dashboard import policy

policy.show()
