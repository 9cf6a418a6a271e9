"""The page `/interventions`."""

from headscope.app.dashboard import interventions

interventions.show()
