from .dormancy import kind_of as kind_of
from .dormancy import kinds as kinds
from .dormancy import on_kind as on_kind
from .measures import first_token_mass as first_token_mass
from .measures import hidden_sinks as hidden_sinks
from .measures import sink_rate as sink_rate
from .profile import layer_profile as layer_profile
