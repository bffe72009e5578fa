"""The domains that come with Tocsin, in one literal tuple; each is a folder beside this file."""

from tocsin.core.domain import Domain

DOMAINS: tuple[Domain, ...] = ()

__all__ = ["DOMAINS"]
