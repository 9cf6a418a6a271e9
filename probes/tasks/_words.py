"""Plain words to make values of: common enough to be a token or two, together never in a text."""

from __future__ import annotations

from random import Random

ADJECTIVES = (
    "amber", "bitter", "broken", "copper", "crooked", "frozen", "gentle", "golden", "hollow",
    "marble", "narrow", "purple", "quiet", "rusty", "scarlet", "silent", "sunny", "velvet", "wooden",
)  # fmt: skip
NOUNS = (
    "anchor", "basket", "candle", "falcon", "garden", "hammer", "harbor", "jacket", "kettle",
    "lantern", "meadow", "mirror", "needle", "pencil", "rabbit", "ribbon", "river", "saddle",
    "tiger", "turtle", "violin", "walnut", "window", "wizard",
)  # fmt: skip
VERBS = ("borrow", "count", "feed", "paint", "repair", "sketch")
CITIES = ("Cairo", "Dublin", "Geneva", "Havana", "Kyoto", "Lima", "Lisbon", "Oslo")
SHIPS = ("Aurora", "Endeavour", "Halcyon", "Marigold", "Pelican")
FIRST_NAMES = ("Carlos", "Clara", "Helen", "Henry", "Maria", "Martin", "Olga", "Peter", "Sarah", "Victor")
SURNAMES = ("Ashby", "Harlow", "Langley", "Mendes", "Navarro", "Okafor", "Penrose", "Tanaka", "Whitfield")


def description(rng: Random, nouns: int = 2) -> str:
    """An adjective and different nouns, such as `crooked walnut lantern`."""
    return " ".join([rng.choice(ADJECTIVES), *rng.sample(NOUNS, nouns)])


def digits(rng: Random, count: int) -> str:
    """A number of `count` digits that does not begin with 0."""
    return str(rng.randrange(10 ** (count - 1), 10**count))


# People whose names are one token in most vocabularies, what they do where, and what things look like.
PEOPLE = (
    "Alice", "Anna", "Ben", "Carl", "Charlie", "Daniel", "David", "Emily", "Frank", "George", "Henry",
    "Jack", "James", "Jane", "John", "Kate", "Laura", "Lisa", "Mark", "Martin", "Mary", "Michael",
    "Paul", "Peter", "Robert", "Sarah", "Simon", "Susan", "Thomas", "Tom",
)  # fmt: skip
PLACES = ("beach", "garden", "library", "market", "office", "park", "school", "station", "store")
GIFTS = ("ball", "book", "drink", "flower", "key", "letter", "map", "ring", "ticket")
COLOURS = ("black", "blue", "brown", "gray", "green", "pink", "purple", "red", "white", "yellow")
OBJECTS = (
    "bag", "ball", "book", "bowl", "box", "brush", "chair", "coin", "cup", "hat", "key", "knife",
    "lamp", "map", "pen", "phone", "plate", "ring", "shirt", "shoe", "spoon", "towel",
)  # fmt: skip
PERIODS = ("campaign", "conflict", "crisis", "drought", "expedition", "reign", "strike", "trial", "war")
