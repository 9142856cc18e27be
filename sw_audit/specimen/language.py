"""The language of the specimen: an English-like grammar whose stories must be recalled from their opening."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random


def _split(words: str) -> list[str]:
    """Split at spaces: word lists stay readable as running text."""
    return words.split()


HEROES = _split("tom jack sam ben leo max finn hugo oscar adam noah felix paul henry simon peter")
HEROINES = _split("anna lily rose clara emma ruby nora alice maya ella iris jane mary helen kate sarah")
CREATURES = _split("fox bear wolf owl rabbit duck goat horse mouse turtle badger raven otter deer hare frog")
PLACES = _split(
    "forest castle garden village cave meadow harbour mill tower valley orchard cellar market chapel bridge school"
)
OBJECTS = _split("lamp key ring book drum coin kite rope basket mirror whistle crown candle ladder spoon wheel")
ADJECTIVES = _split(
    "old young brave clever shy gentle proud lazy merry quiet hungry curious strong sleepy wise funny"
)

TIMES = _split("morning afternoon evening night")
# What the weather and the people do depends on the time of day: the first of two words three times in four.
WEATHER = dict(zip(TIMES, ("misty fresh", "sunny hot", "windy cool", "dark cold"), strict=True))
PASTIME = dict(
    zip(TIMES, ("singing baking", "walking swimming", "reading cooking", "sleeping dreaming"), strict=True)
)
MOODS = _split("happy sad tired afraid glad angry")
# Each creature has its own way to carry and its own way to move.
_CARRY = _split(
    "stole lifted grabbed held nibbled hid pushed pulled found carried buried dropped rolled took kept caught"
)
_MOVE = _split(
    "sneaked marched prowled flew hopped swam climbed trotted crept crawled dug glided dived ran danced leaped"
)
CARRIED = dict(zip(CREATURES, _CARRY, strict=True))
MOVED = dict(zip(CREATURES, _MOVE, strict=True))

PUNCTUATION: tuple[str, ...] = (".", ",", "?", "!")
STOP_WORDS: frozenset[str] = frozenset(
    _split(
        "the a and to was were in of it with he she his her they that had there for but so then not is "
        "who you my this when at from all said"
    )
)

KINDS: dict[str, list[str]] = {
    "hero": HEROES,
    "heroine": HEROINES,
    "creature": CREATURES,
    "place": PLACES,
    "object": OBJECTS,
    "adjective": ADJECTIVES,
}

OPENINGS: tuple[str, ...] = (
    "once upon a time there was a ADJECTIVE CREATURE called HERO who lived in the PLACE "
    "with HEROINE and had a OBJECT .",
    "long ago in the PLACE a ADJECTIVE CREATURE called HERO had a OBJECT , and his friend was HEROINE .",
    "this is the story of HERO , a ADJECTIVE CREATURE from the PLACE , and of HEROINE who had a OBJECT .",
)
SENTENCES: tuple[str, ...] = (
    "the ADJECTIVE CREATURE CARRIED the OBJECT and gave it to HEROINE .",
    "in the TIME it was WEATHER in the PLACE and HEROINE was PASTIME .",
    "HEROINE said to HERO , where is my OBJECT ?",
    "HERO said that the OBJECT was in the PLACE .",
    "HERO and HEROINE went to the PLACE to look for the OBJECT .",
    "so the CREATURE MOVED to the PLACE with the OBJECT .",
    "but HEROINE was MOOD , for her CREATURE had not seen the OBJECT .",
    "when the TIME came they were all PASTIME in the PLACE .",
    "then HERO said , you are a ADJECTIVE CREATURE !",
    "the CREATURE MOVED from the PLACE and she said , this is HERO !",
    "HERO was MOOD , so he gave the OBJECT to HEROINE .",
    "at TIME the ADJECTIVE CREATURE CARRIED a OBJECT for HEROINE .",
)
# One cast in sixteen is kept from training: no held-out story shares its six facts with a training story.
HELD_OUT_SHARE = 16


@dataclass(frozen=True)
class Story:
    """One story: its words, the slot that each word filled (None for a fixed word), and its cast."""

    words: tuple[str, ...]
    slots: tuple[str | None, ...]
    cast: dict[str, str]


def list_vocabulary() -> list[str]:
    """List every word of the language once: punctuation, stop words, then the rest by alphabet."""
    words = {word for template in OPENINGS + SENTENCES for word in template.split() if not word.isupper()}
    words |= {word for kind in KINDS.values() for word in kind}
    words |= set(TIMES) | set(MOODS) | set(CARRIED.values()) | set(MOVED.values())
    words |= {word for pair in (*WEATHER.values(), *PASTIME.values()) for word in pair.split()}
    rest = sorted(words - set(PUNCTUATION) - STOP_WORDS)
    return [*PUNCTUATION, *sorted(STOP_WORDS), *rest]


def is_held_out(cast: dict[str, str]) -> bool:
    """Tell whether a cast belongs to the held-out stories, by a fixed rule on its six words."""
    return sum(kind.index(cast[name]) for name, kind in KINDS.items()) % HELD_OUT_SHARE == 0


def tell_story(random: Random, words: int, *, held_out: bool) -> Story:
    """Tell one story of exactly `words` words; its last sentence is cut where the length is reached.

    Punctuation marks are words; the cast is one of the held-out casts, or of all others.
    """
    cast = {name: random.choice(kind) for name, kind in KINDS.items()}
    while is_held_out(cast) is not held_out:
        cast = {name: random.choice(kind) for name, kind in KINDS.items()}
    words_and_slots = list(_fill(random.choice(OPENINGS), cast, random))
    previous = ""
    while len(words_and_slots) < words:
        template = random.choice(SENTENCES)
        if template != previous:
            words_and_slots.extend(_fill(template, cast, random))
            previous = template
    kept = words_and_slots[:words]
    return Story(tuple(word for word, _ in kept), tuple(slot for _, slot in kept), cast)


def tell_stories(seed: int, count: int, words: int, *, held_out: bool) -> Iterator[Story]:
    """Tell `count` stories from one seed."""
    random = Random(seed)  # noqa: S311  a seeded draw, not a secret
    for _ in range(count):
        yield tell_story(random, words, held_out=held_out)


def _fill(template: str, cast: dict[str, str], random: Random) -> Iterator[tuple[str, str | None]]:
    """Yield (word, slot) for one template; the creature decides its verbs, the time of day the weather."""
    time = random.choice(TIMES)
    said = {
        "TIME": time,
        "WEATHER": random.choices(_split(WEATHER[time]), (3, 1))[0],
        "PASTIME": random.choices(_split(PASTIME[time]), (3, 1))[0],
        "MOOD": random.choice(MOODS),
        "CARRIED": CARRIED[cast["creature"]],
        "MOVED": MOVED[cast["creature"]],
        **{name.upper(): word for name, word in cast.items()},
    }
    for word in template.split():
        yield (said[word], word.lower()) if word in said else (word, None)
