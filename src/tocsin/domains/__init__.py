"""The domains that come with Tocsin, in one literal tuple; each is a folder beside this file."""

from tocsin.core.domain import Domain
from tocsin.domains import agents, signals

DOMAINS: tuple[Domain, ...] = (agents.DOMAIN, signals.DOMAIN)

__all__ = ["DOMAINS"]
