"""The page `/sinks`."""

from headscope.app.dashboard import sinks

sinks.show()
