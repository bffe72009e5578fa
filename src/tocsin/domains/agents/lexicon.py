"""Sets of words, written as text."""


def lexicon(text: str) -> frozenset[str]:
    """The words of a text that lists them."""
    return frozenset(text.split())
