"""Settings: what they are (``model``), where they come from (``load``), what they mean in words."""

from tocsin.config.checks import is_loopback
from tocsin.config.defaults import default_upstreams
from tocsin.config.load import InvalidConfig, Problem, find, load, warnings
from tocsin.config.model import Config
from tocsin.config.view import changed, flattened

__all__ = [
    "Config",
    "InvalidConfig",
    "Problem",
    "changed",
    "default_upstreams",
    "find",
    "flattened",
    "is_loopback",
    "load",
    "warnings",
]
