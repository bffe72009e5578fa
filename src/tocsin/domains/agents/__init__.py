"""Agents that loop, spend and get nowhere: found from what they do, and stopped in stages."""

from tocsin.core.domain import Domain
from tocsin.domains.agents.detectors import burn_detector
from tocsin.domains.agents.panel import PANEL
from tocsin.domains.agents.policy import AgentsPolicy

DOMAIN = Domain(
    name="agents",
    summary="Finds runs that loop, spend and get nowhere, and stops them in stages.",
    policies=(AgentsPolicy,),
    detectors=(burn_detector,),
    panels=(PANEL,),
)

__all__ = ["DOMAIN"]
