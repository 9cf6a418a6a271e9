"""The first page."""

from headscope.app.dashboard import runs

runs.show()
