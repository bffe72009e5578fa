"""Sentinels in the settings: where each suite's calls go."""

from fnmatch import fnmatchcase

from tocsin.config.model import Config, Feature, SentinelSettings, Target
from tocsin.core.sentinels import feature_of


def upstreams_of(config: Config, suite: SentinelSettings, models: frozenset[str]) -> list[str]:
    """The upstreams that a suite probes, in the order of the settings.

    Those that it names; else those of its feature's targets; else, as for any call, the first that
    serves the model, for each of ``models``.
    """
    if suite.upstreams:
        return list(suite.upstreams)
    feature = config.features.get(suite.feature)
    if feature is not None and feature.targets:
        return list(dict.fromkeys(t.upstream for t in feature.targets if t.weight > 0))
    found: list[str] = []
    for model in sorted({suite.model} if suite.model else models):
        for name, upstream in config.upstreams.items():
            if any(fnmatchcase(model, glob) for glob in upstream.models):
                found.append(name)
                break
    return list(dict.fromkeys(found))


def with_sentinels(config: Config) -> Config:
    """The same settings with a feature for each suite and upstream: one target, no fallback.

    So that what answers is what was to be probed. The supervisor of runs leaves them alone. The
    same object without suites.
    """
    if not config.sentinels:
        return config
    made = dict(config.features)
    for name, suite in config.sentinels.items():
        feature = config.features.get(suite.feature, Feature.model_validate({}))
        models = {target.upstream: target.model for target in reversed(feature.targets)}
        for upstream in config.upstreams:
            model = "" if suite.model else models.get(upstream, "")
            made[feature_of(name, upstream)] = Feature(
                targets=(Target(upstream=upstream, model=model),),
                policies={**feature.policies, "agents": "off"},
            )
    return config.model_copy(update={"features": made})


__all__ = ["upstreams_of", "with_sentinels"]
