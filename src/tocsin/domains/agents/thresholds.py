"""Every number that the supervision of runs decides by, with what it means."""

import msgspec


class Stages(msgspec.Struct, frozen=True):
    """From how much on a detector nudges, pauses and kills; 0 never does."""

    nudge: int
    pause: int
    kill: int


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the engine. Counts are of steps without progress in a row unless said
    otherwise: progress, or a person who says something, starts every count again."""

    similar: int = 80
    """0..100: from which similarity on two calls' arguments are near-duplicates."""
    new_share: float = 0.10
    """A result is new when this share of its distinct words was not seen before in the run ..."""
    new_words: int = 12
    """... or when it has so many words that were not seen before."""
    new_talk: float = 0.25
    """Text says something new when this share of its content words was not said before."""
    same_talk: float = 0.5
    """Share of content words in common from which two texts say much the same."""

    unseen: float = 0.25
    """What a success counts for as a step without progress when its text was not seen, though all
    of its words were ..."""
    unseen_again: float = 0.5
    """... and when much the same was asked for before."""
    echo_elsewhere: float = 0.25
    """The same for a brief answer that is a known one but for what it repeats of the question, when
    it is about something that was not asked for before; of tools that do not only read, nothing."""
    empty_elsewhere: float = 0.5
    """The same for nothing, where something else was tried."""

    identical: Stages = Stages(3, 4, 8)
    """The same call with the same kind of result; of failures, one less pauses."""
    come_back: Stages = Stages(3, 0, 0)
    """The same call with the same result, to the letter, among the last ``window`` steps, whatever
    came between them but a change."""
    resent: Stages = Stages(8, 25, 100)
    """The same request sent again though it was answered, as ``identical``; fewer are samples."""
    near_duplicate: Stages = Stages(3, 4, 10)
    """Near-duplicate calls with the same class of outcome; of failures, three pause if a fourth
    step beside them brought nothing either."""
    same_failure: Stages = Stages(3, 5, 10)
    """The same failure, whatever the arguments."""
    of_last: int = 4
    """Three same failures among so many steps nudge, though something new came between."""
    nothing_new: Stages = Stages(3, 6, 15)
    """Successful calls of one tool whose results hold nothing new."""
    alternation: Stages = Stages(5, 6, 12)
    """Steps of a cycle of two to four that goes round: six are A-B three times."""
    monologue: Stages = Stages(3, 6, 12)
    """Texts in a row, of one agent or of several in turn, that say nothing new."""
    no_progress: Stages = Stages(3, 8, 20)
    """Steps of any kind without progress; a repetition with the same result counts twice to
    nudge."""
    window: int = 20
    """Steps over which the share without progress is taken ..."""
    window_share: float = 0.85
    """... and the share that pauses although something new came now and then."""

    poll_gap_s: float = 60.0
    """The same call after at least this long is polling: it waits for a change."""
    pending_gap_s: float = 10.0
    """The same, where the result says that something is still under way."""
    retry_gap_s: float = 1.0
    """The least wait before a call that was rate-limited is sent again ..."""
    retries: int = 8
    """... so many times; after that only a wait of ``poll_gap_s`` counts as one."""

    growth: float = 4.0
    """Input tokens of a call against the first ones of the run: a context that only grows."""
    growth_tokens: int = 50_000
    """The least input tokens at which growth matters."""
    cost_rise: float = 4.0
    """Mean cost of the last five calls against the first five: cost that accelerates."""
    trend_calls: int = 20
    """The least number of calls for growth and cost."""
    trend_progress: float = 0.5
    """Growth, cost and length count only where a smaller share of the last steps made progress."""
    no_end: Stages = Stages(3, 6, 0)
    """Calls as multiples of ``expected_calls``; pausing also needs ``trend_progress``."""


DEFAULT = Thresholds()
