"""The page `/circuits`."""

from headscope.app.dashboard import circuits

circuits.show()
