"""The page `/atlas`."""

from headscope.app.dashboard import atlas

atlas.show()
