"""The in-process front door: the same policies and the same store, without a network hop.

::

    from tocsin.sdk import Tocsin

    tocsin = Tocsin()
    client = tocsin.wrap(openai.OpenAI())
    with tocsin.run(feature="support") as run:
        client.chat.completions.create(...)
"""

from tocsin.sdk.denials import Denial, denial
from tocsin.sdk.effects import EffectUnknown, NotDone, Once
from tocsin.sdk.front import Tocsin
from tocsin.sdk.runs import Run, Spent

__all__ = [
    "Denial",
    "EffectUnknown",
    "NotDone",
    "Once",
    "Run",
    "Spent",
    "Tocsin",
    "denial",
]
