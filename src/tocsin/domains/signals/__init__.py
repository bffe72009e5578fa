"""Signals of a feature's behaviour, and what finds that they changed."""

from tocsin.core.domain import Domain
from tocsin.domains.signals.agents import AgentsEvaluator
from tocsin.domains.signals.drift import drift_detector
from tocsin.domains.signals.form import FormEvaluator
from tocsin.domains.signals.grounding import GroundingEvaluator
from tocsin.domains.signals.objectives import objective_detector
from tocsin.domains.signals.proof import proof_detector
from tocsin.domains.signals.service import ServiceEvaluator
from tocsin.domains.signals.users import UsersEvaluator

DOMAIN = Domain(
    name="signals",
    summary="Measures how each feature answers, and alarms when that changes.",
    evaluators=(
        AgentsEvaluator,
        FormEvaluator,
        GroundingEvaluator,
        ServiceEvaluator,
        UsersEvaluator,
    ),
    detectors=(
        drift_detector,
        objective_detector,
        proof_detector,
    ),
)

__all__ = ["DOMAIN"]
