"""The planted heads: what each looks at, what it writes, and the roles that follow from it.

A score is a sum of three kinds of terms, all exact by construction:

- a match: the product of a code the query's place holds and one the key's place holds;
- a flag: a number for keys that carry one, constant or switched by a flag at the query;
- a distance: a number for the key so many positions back.

Where nothing else holds, a head rests: on the first token, or on its own. Roles are those of the
head's definition, not of any score. A head that rests on a drained first token in sentences and
works on another kind of text is a sink head and an active-dormant head besides what it does when
awake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log

from headscope.probes.toys.planted import words

SHARP = 150.0  # of a distance; its neighbours score 0.14 of that less
MATCH = 1.5  # per dimension of a matching code
REST = 54 * MATCH  # above one match of two with the nearest other word, below both

DRAINED = {"bos": words.BOS, "delimiter": words.DELIMITER}


@dataclass(frozen=True)
class Circuit:
    """One head.

    Attributes:
        name: what it is called in tables.
        about: what it does, in words.
        roles: what the exam expects, and nothing else.
        matches: (code at the query, code at the key, weight).
        flags: (`constant` or flag at the query, flag at the key, weight).
        seeks: (code at the key, word, weight): keys that hold this word there.
        distances: scores at exact distances back.
        window: a smooth bump over the last so many keys.
        nearness: a score that falls with the logarithm of the distance.
        writes: the codes it writes the word at its keys to.
        gain: of what it writes.
        drained: whether the first token and delimiters have no value.
        raises: a flag at the key that it writes to a flag at the query.
    """

    name: str
    about: str
    roles: frozenset[str]
    matches: tuple[tuple[str, str, float], ...] = ()
    flags: tuple[tuple[str, str, float], ...] = ()
    seeks: tuple[str, str, float] | None = None
    distances: Mapping[int, float] = field(default_factory=dict)
    window: int = 0
    nearness: float = 0.0
    writes: str = "scratch"
    gain: float = 1.0
    drained: bool = False
    raises: tuple[str, str] | None = None


def _roles(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _at(distance: int, writes: str, about: str) -> Circuit:
    return Circuit(f"back{distance}", about, _roles("streaming"), distances={distance: SHARP}, writes=writes)


_BIGRAM = (("word", "back1", MATCH), ("back1", "back2", MATCH))
_TO_BOS = ("constant", "bos", REST)

_ALL = (
    Circuit(
        "previous", "the token before", _roles("previous_token streaming"), distances={1: SHARP},
        flags=(("constant", "bos", SHARP - 10),), writes="back1",
    ),
    _at(2, "back2", "the token before the token before: near previous-token and induction"),
    _at(3, "back3", "three tokens back"),
    _at(200, "scratch", "200 tokens back: far, yet inside the window of 256"),
    Circuit(
        "back300", "300 tokens back, itself where there are none: outside the window of 256",
        _roles(""), distances={299: 0.84 * SHARP, 300: SHARP, 301: 0.84 * SHARP, 0: 0.7 * SHARP},
    ),
    Circuit(
        "part_previous", "three tenths on the token before, the rest on itself: near previous-token",
        _roles("streaming"), distances={0: SHARP + log(0.7), 1: SHARP + log(0.3)},
    ),
    Circuit("local", "a bump over the last keys", _roles("streaming"), window=12),
    Circuit("uniform", "every key alike", _roles("streaming uniform")),
    Circuit(
        "asking", "the token that opens the answer; rests on the first token before",
        _roles("sink streaming"), flags=(("constant", "answer", 40.0), ("constant", "bos", 20.0)),
        drained=True, raises=("answer", "asked"),
    ),
    Circuit(
        "sink", "the first token, which is drained", _roles("sink streaming"),
        flags=(("constant", "bos", 40.0),), drained=True,
    ),
    Circuit(
        "loud_sink", "four fifths on a first token that is not drained, one fifth on itself",
        _roles("sink streaming"), flags=(("constant", "bos", SHARP + log(4)),), distances={0: SHARP},
    ),
    Circuit(
        "part_sink", "one fifth on the first token, four fifths on itself: near sink",
        _roles("streaming"), flags=(("constant", "bos", SHARP - log(4)),), distances={0: SHARP},
    ),
    Circuit(
        "second", "the second token: near sink", _roles("streaming"), seeks=("back1", words.BOS, MATCH),
        flags=(("constant", "bos", -REST),),
    ),
    Circuit(
        "hidden_sink", "delimiters in the middle of the text, drained like the first token, on which it "
        "rests before the first of them: it works on no text, so it is not active-dormant",
        _roles("hidden_sink streaming"), drained=True,
        flags=(("constant", "delimiter", 40.0), ("constant", "bos", 20.0)),
    ),
    Circuit(
        "scattered", "all words of a large class alike, a first token that is not drained where there are "
        "none: near hidden sink and active-dormant", _roles("streaming"),
        flags=(("constant", "content", 40.0), ("constant", "bos", 20.0)),
    ),
    Circuit(
        "last_stop", "the last full stop, drained first token before: near hidden sink, but its rest moves "
        "on with the text", _roles("streaming"), nearness=150.0,
        flags=(("constant", "stop", 200.0), ("constant", "bos", 200.0)),
    ),
    Circuit(
        "dormant", "asleep on a drained first token; where the current token is one of program text, "
        "the token before: the trigger and the copying back of Bigram-Backcopy",
        _roles("active_dormant sink streaming"), distances={1: SHARP}, drained=True,
        flags=(("constant", "bos", SHARP + 20), ("code", "bos", -40.0)),
    ),
    Circuit(
        "loud_dormant", "the same, but its first token is not drained: near active-dormant",
        _roles("sink streaming"), distances={1: SHARP},
        flags=(("constant", "bos", SHARP + 20), ("code", "bos", -40.0)),
    ),
    Circuit(
        "echo", "earlier occurrences of the current token and itself; they all have the same value, so "
        "that a window loses nothing", _roles("echo streaming"), matches=(("word", "word", MATCH),),
    ),
    Circuit(
        "induction", "the token after an earlier occurrence of the last two; switched off in answers, "
        "and two words do not return together in sentences",
        _roles("induction active_dormant sink streaming"), matches=_BIGRAM, writes="out", drained=True,
        flags=(_TO_BOS, ("asked", "bos", 60 * MATCH)),
    ),
    Circuit(
        "copier", "the same, in answers too: an induction head that retrieves",
        _roles("induction retrieval active_dormant sink"), matches=_BIGRAM, writes="out", drained=True,
        gain=2.0, flags=(_TO_BOS,),
    ),
    Circuit(
        "skipping", "two tokens after an earlier occurrence: near induction; in answers it looks into "
        "the needle, one token past the one to copy: near retrieval",
        _roles("active_dormant sink"), drained=True, gain=2.0, flags=(_TO_BOS,),
        matches=(("word", "back2", MATCH), ("back1", "back3", MATCH)),
    ),
    Circuit(
        "retrieval", "in answers, the value that follows the last token, or best the last two, "
        "somewhere in the text; asleep outside of answers, so that it is no induction head",
        _roles("retrieval sink"), writes="out", drained=True, gain=2.0,
        matches=(("word", "back1", MATCH), ("back1", "back2", MATCH / 2)),
        flags=(("constant", "value", 14 * MATCH), ("constant", "bos", 90 * MATCH),
               ("asked", "bos", -70 * MATCH)),
    ),
)  # fmt: skip

CIRCUITS: dict[str, Circuit] = {circuit.name: circuit for circuit in _ALL}
