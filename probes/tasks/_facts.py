"""What everybody knows: subjects, a property of each, and how it is said and asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """A property that many subjects have.

    Attributes:
        statement: a sentence about the subject `{s}` up to the value.
        question: the same as a question.
        facts: the value of each subject.
    """

    statement: str
    question: str
    facts: dict[str, str]


def _table(text: str) -> dict[str, str]:
    """`value: subject, subject; value: ...` as a value for each subject."""
    found = dict[str, str]()
    for group in " ".join(text.split()).split(";"):
        value, _, subjects = group.strip().partition(": ")
        found |= {subject.strip(): value for subject in subjects.split(",")}
    return found


_CAPITALS = """
    Paris: France; Berlin: Germany; Rome: Italy; Madrid: Spain; Lisbon: Portugal; Vienna: Austria;
    London: England; Dublin: Ireland; Moscow: Russia; Warsaw: Poland; Prague: the Czech Republic;
    Budapest: Hungary; Athens: Greece; Stockholm: Sweden; Oslo: Norway; Copenhagen: Denmark;
    Helsinki: Finland; Brussels: Belgium; Amsterdam: the Netherlands; Bucharest: Romania;
    Sofia: Bulgaria; Belgrade: Serbia; Tokyo: Japan; Beijing: China; Seoul: South Korea;
    Bangkok: Thailand; Hanoi: Vietnam; Manila: the Philippines; Jakarta: Indonesia;
    Kathmandu: Nepal; Tehran: Iran; Baghdad: Iraq; Kabul: Afghanistan; Damascus: Syria;
    Cairo: Egypt; Nairobi: Kenya; Lima: Peru; Havana: Cuba; Santiago: Chile; Ottawa: Canada;
    Jerusalem: Israel; Ankara: Turkey; Kiev: Ukraine; Tunis: Tunisia; Canberra: Australia
"""
_LANGUAGES = """
    French: France; German: Germany, Austria; Italian: Italy; Spanish: Spain, Mexico, Peru, Cuba,
    Argentina, Chile; Portuguese: Portugal, Brazil; English: England, Australia; Russian: Russia;
    Polish: Poland; Hungarian: Hungary; Greek: Greece; Swedish: Sweden; Norwegian: Norway;
    Danish: Denmark; Finnish: Finland; Romanian: Romania; Bulgarian: Bulgaria; Turkish: Turkey;
    Japanese: Japan; Chinese: China; Korean: South Korea; Thai: Thailand; Vietnamese: Vietnam;
    Persian: Iran; Arabic: Egypt, Iraq, Syria; Hebrew: Israel; Ukrainian: Ukraine; Dutch: the Netherlands
"""
_CURRENCIES = """
    euro: Germany, France, Italy, Spain, Greece, Finland, Austria, Portugal, Ireland, Belgium;
    dollar: the United States, Australia, Canada, Singapore; pound: England, Egypt; yen: Japan;
    rupee: India, Nepal, Pakistan; peso: Mexico, Argentina, Chile, Cuba, the Philippines;
    krone: Norway, Denmark; krona: Sweden; lira: Turkey; shilling: Kenya; zloty: Poland;
    ruble: Russia; franc: Switzerland; rand: South Africa; yuan: China; won: South Korea;
    baht: Thailand; dinar: Iraq; real: Brazil
"""
_CONTINENTS = """
    Europe: France, Germany, Italy, Spain, Portugal, Sweden, Norway, Denmark, Poland, Hungary, Greece,
    Austria, Belgium, Romania; Asia: Japan, China, India, Thailand, Vietnam, Nepal, Iran, Iraq,
    Pakistan, Malaysia; Africa: Egypt, Kenya, Nigeria, Ghana, Ethiopia, Uganda, Zimbabwe, Morocco,
    Tanzania; South America: Brazil, Peru, Chile, Argentina, Bolivia, Colombia;
    North America: Canada, Mexico
"""
_OPPOSITES = """
    cold: hot; small: big; short: tall; slow: fast; dark: light; wet: dry; weak: strong; poor: rich;
    old: new; low: high; soft: hard; bad: good; sad: happy; full: empty; closed: open; late: early;
    left: right; down: up; out: in; night: day; black: white; death: life; peace: war; hate: love;
    false: true; narrow: wide; thin: thick; dirty: clean; ugly: beautiful; south: north; west: east;
    end: beginning; guilty: innocent; dead: alive; quiet: loud; female: male
"""
_COLOURS = """
    yellow: a banana, a lemon, the sun; red: a tomato, blood, a strawberry, a fire engine, a ruby;
    green: grass, an emerald, a cucumber, spinach; blue: the sky, a sapphire, the ocean;
    white: snow, milk, salt, a swan, chalk; black: coal, a raven, charcoal, oil; orange: a carrot,
    a pumpkin; purple: an eggplant, lavender; brown: chocolate, coffee; pink: a flamingo
"""
_CLASSES = """
    fish: salmon, trout, tuna, shark, cod; bird: eagle, sparrow, owl, pigeon, parrot, robin, crow;
    insect: beetle, ant, butterfly, mosquito, grasshopper, moth; tree: oak, pine, maple, birch,
    willow; fruit: apple, banana, pear, mango; vegetable: carrot, cabbage, broccoli, spinach;
    mammal: whale, dolphin, bat, elephant; instrument: violin, piano, guitar, flute, trumpet;
    metal: iron, copper, silver, aluminum; tool: hammer, screwdriver, saw
"""
_YOUNG = """
    puppy: dog, wolf; kitten: cat; calf: cow, whale, elephant; lamb: sheep; foal: horse, donkey;
    cub: bear, lion, tiger; chick: hen; kid: goat; fawn: deer; duckling: duck; piglet: pig;
    tadpole: frog; caterpillar: butterfly; gosling: goose; joey: kangaroo
"""
_PROFESSIONS = """
    physicist: Albert Einstein, Isaac Newton, Stephen Hawking, Niels Bohr; composer: Ludwig van
    Beethoven, Wolfgang Amadeus Mozart, Johann Sebastian Bach; painter: Pablo Picasso, Vincent van
    Gogh, Claude Monet, Rembrandt; philosopher: Plato, Aristotle, Socrates, Immanuel Kant,
    Friedrich Nietzsche; writer: Mark Twain, Charles Dickens, Leo Tolstoy, Franz Kafka; poet:
    William Wordsworth, Emily Dickinson, Robert Frost; president: Abraham Lincoln, George
    Washington, Thomas Jefferson; actor: Charlie Chaplin, Marlon Brando; mathematician: Euclid,
    Carl Friedrich Gauss, Leonhard Euler; singer: Elvis Presley, Frank Sinatra, Madonna
"""

RELATIONS: dict[str, Relation] = {
    name: Relation(statement, question, _table(facts))
    for name, statement, question, facts in (
        ("capital", "The capital of {s} is", "What is the capital of {s}?", _CAPITALS),
        ("language", "The main language of {s} is", "What is the main language of {s}?", _LANGUAGES),
        ("currency", "The currency of {s} is the", "What is the currency of {s}?", _CURRENCIES),
        ("continent", "{s} is a country on the continent of", "On which continent is {s}?", _CONTINENTS),
        ("opposite", "The opposite of {s} is", "What is the opposite of {s}?", _OPPOSITES),
        ("colour", "The usual color of {s} is", "What is the usual color of {s}?", _COLOURS),
        ("class", "The {s} is a kind of", "What kind of thing is the {s}?", _CLASSES),
        ("young", "The baby of a {s} is called a", "What is the baby of a {s} called?", _YOUNG),
        ("profession", "By profession, {s} was a famous", "What was {s} by profession?", _PROFESSIONS),
    )
}
