"""The page `/head`."""

from headscope.app.dashboard import head

head.show()
