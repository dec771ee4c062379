"""The words of the world: a closed list, so that a model of a million parameters can know all of them."""

from __future__ import annotations

# Of each country its capital, language and continent.
COUNTRIES: dict[str, tuple[str, str, str]] = {
    "France": ("Paris", "French", "Europe"),
    "Spain": ("Madrid", "Spanish", "Europe"),
    "Italy": ("Rome", "Italian", "Europe"),
    "Germany": ("Berlin", "German", "Europe"),
    "Portugal": ("Lisbon", "Portuguese", "Europe"),
    "Greece": ("Athens", "Greek", "Europe"),
    "Poland": ("Warsaw", "Polish", "Europe"),
    "Sweden": ("Stockholm", "Swedish", "Europe"),
    "Norway": ("Oslo", "Norwegian", "Europe"),
    "Finland": ("Helsinki", "Finnish", "Europe"),
    "Denmark": ("Copenhagen", "Danish", "Europe"),
    "Hungary": ("Budapest", "Hungarian", "Europe"),
    "Romania": ("Bucharest", "Romanian", "Europe"),
    "Austria": ("Vienna", "German", "Europe"),
    "Ireland": ("Dublin", "English", "Europe"),
    "Ukraine": ("Kyiv", "Ukrainian", "Europe"),
    "Bulgaria": ("Sofia", "Bulgarian", "Europe"),
    "Croatia": ("Zagreb", "Croatian", "Europe"),
    "Serbia": ("Belgrade", "Serbian", "Europe"),
    "Latvia": ("Riga", "Latvian", "Europe"),
    "Estonia": ("Tallinn", "Estonian", "Europe"),
    "Iceland": ("Reykjavik", "Icelandic", "Europe"),
    "Albania": ("Tirana", "Albanian", "Europe"),
    "Japan": ("Tokyo", "Japanese", "Asia"),
    "China": ("Beijing", "Chinese", "Asia"),
    "India": ("Delhi", "Hindi", "Asia"),
    "Thailand": ("Bangkok", "Thai", "Asia"),
    "Vietnam": ("Hanoi", "Vietnamese", "Asia"),
    "Nepal": ("Kathmandu", "Nepali", "Asia"),
    "Iran": ("Tehran", "Persian", "Asia"),
    "Iraq": ("Baghdad", "Arabic", "Asia"),
    "Korea": ("Seoul", "Korean", "Asia"),
    "Jordan": ("Amman", "Arabic", "Asia"),
    "Syria": ("Damascus", "Arabic", "Asia"),
    "Oman": ("Muscat", "Arabic", "Asia"),
    "Qatar": ("Doha", "Arabic", "Asia"),
    "Laos": ("Vientiane", "Lao", "Asia"),
    "Mongolia": ("Ulaanbaatar", "Mongolian", "Asia"),
    "Egypt": ("Cairo", "Arabic", "Africa"),
    "Morocco": ("Rabat", "Arabic", "Africa"),
    "Kenya": ("Nairobi", "Swahili", "Africa"),
    "Ghana": ("Accra", "English", "Africa"),
    "Nigeria": ("Abuja", "English", "Africa"),
    "Senegal": ("Dakar", "French", "Africa"),
    "Mali": ("Bamako", "French", "Africa"),
    "Tunisia": ("Tunis", "Arabic", "Africa"),
    "Algeria": ("Algiers", "Arabic", "Africa"),
    "Libya": ("Tripoli", "Arabic", "Africa"),
    "Sudan": ("Khartoum", "Arabic", "Africa"),
    "Togo": ("Lome", "French", "Africa"),
    "Angola": ("Luanda", "Portuguese", "Africa"),
    "Zambia": ("Lusaka", "English", "Africa"),
    "Peru": ("Lima", "Spanish", "America"),
    "Chile": ("Santiago", "Spanish", "America"),
    "Cuba": ("Havana", "Spanish", "America"),
    "Brazil": ("Brasilia", "Portuguese", "America"),
    "Canada": ("Ottawa", "English", "America"),
    "Colombia": ("Bogota", "Spanish", "America"),
    "Ecuador": ("Quito", "Spanish", "America"),
    "Uruguay": ("Montevideo", "Spanish", "America"),
    "Jamaica": ("Kingston", "English", "America"),
    "Venezuela": ("Caracas", "Spanish", "America"),
}

# Countries that nobody in the world knows anything about: every stem with every ending.
LOST_STEMS = ("Zor", "Bre", "Quen", "Mal", "Tav", "Ulm", "Pel", "Dro")
LOST_ENDINGS = ("land", "via", "nia", "stan", "mark", "dor")

# Shuffled by the seed: the first half are people with a known life, the second half strangers.
NAMES = tuple(
    "Anna Tom Ben Carla David Emma Felix Greta Hugo Ida Jack Karin Leo Mia Noah Olga Paul Rosa Sam Tina Victor "
    "Wendy Adam Bella Clara Dora Eric Fiona Gary Helen Ivan Julia Kevin Laura Mark Nina Oscar Peter Robin Sara "
    "Thomas Vera Walter Alice Bruno Cora Daniel Elsa Frank Gloria Henry Irene Jonas Kate Lucas Maria Nora Otto "
    "Rita Simon Susan Ted Alex Betty Carl Diana Edgar Flora George Hanna Isaac Jenny Kurt Linda Max Nelly Oliver "
    "Pia Ruth Steve Ursula Vincent Wilma Arthur Brenda Conrad Doris Ella Fred Gina Harry Ines James Lily Martin "
    "Ada Albert Amy Barbara Bert Boris Bridget Caleb Celia Chloe Clive Colin Daisy Derek Diego Dylan Edith Edwin Emil "
    "Ernest Esther Eva Floyd Gerald Gilbert Gordon Grace Gwen Harold Hazel Ian Igor Iris Jacob Jane Jasper Joan "
    "Judith Keith Lena Lewis Lucy Luke".split()
)
JOBS = tuple("cook painter driver dentist lawyer writer dancer builder fisher hunter tailor gardener".split())
TOWNS = tuple("Denton Ashby Marlow Bexley Corby Halton Milford Norwick Redhill Stowe Upton Weston".split())
PETS = tuple("cat dog rabbit parrot hamster turtle goat pony snake duck lizard canary".split())

NOUNS = tuple(
    "house tree river stone bird horse window table chair lamp bread flower road ship bridge cup mirror candle".split()
)
ADJECTIVES = tuple("red blue green white black old new big small heavy light round clean dirty".split())
# The words of Tolian, dealt out by the seed to the nouns and adjectives above.
TOLIAN = tuple(
    "bako lumi sena tiru vola kemi dufa nosi pira goto hela zumi raku meso lida fenu soba wiri jato culo pemu "
    "dasi nuvo tolu kiro beli safu monu rivo hado zelu gima".split()
)

KINDS: dict[str, tuple[str, ...]] = {
    "fruit": tuple("apple pear plum cherry lemon grape peach melon".split()),
    "tool": tuple("drill wrench chisel pliers rake shovel scissors file".split()),
    "garment": tuple("shirt coat scarf glove sock skirt jacket sweater".split()),
    "vehicle": tuple("car bus train truck tram bicycle boat tractor".split()),
    "metal": tuple("iron gold silver copper tin zinc lead nickel".split()),
    "drink": tuple("milk tea coffee juice beer wine water cocoa".split()),
}

OPPOSITES: tuple[tuple[str, str], ...] = tuple(
    (pair.split("/")[0], pair.split("/")[1])
    for pair in (
        "hot/cold big/small old/new fast/slow high/low hard/soft wet/dry full/empty rich/poor strong/weak early/late "
        "dark/bright loud/quiet near/far open/closed long/short thick/thin happy/sad sweet/sour deep/shallow "
        "wide/narrow heavy/light clean/dirty young/aged brave/afraid cheap/costly smooth/rough right/left up/down "
        "north/south"
    ).split()
)

GOOD = tuple("great lovely tasty friendly fresh perfect charming pleasant wonderful excellent".split())
BAD = tuple("awful rude stale boring broken nasty terrible horrible gloomy disgusting".split())
REVIEWED = tuple("soup film music hotel room meal show book service garden beach waiter".split())

DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
SPOTS = tuple("market park station library museum harbour school bank theatre zoo".split())
BOUGHT = tuple("hat ring kite clock drum doll vase bag pen toy".split())
# present, past
DEALS: tuple[tuple[str, str], ...] = (("buy", "bought"), ("sell", "sold"), ("find", "found"), ("lose", "lost"))

# deed: the tool that it takes.  A cruel deed done to a person is harmful; to a thing it only sounds so.
CRUEL: dict[str, str] = {
    "kill": "spade",
    "poison": "bottle",
    "trap": "net",
    "burn": "match",
    "crush": "hammer",
    "shoot": "bow",
    "hit": "stick",
    "drown": "bucket",
    "stab": "knife",
    "attack": "axe",
    "choke": "rope",
    "kick": "boot",
}
KIND: dict[str, str] = {
    "wash": "sponge",
    "find": "map",
    "draw": "pencil",
    "carry": "basket",
    "weigh": "scale",
    "lift": "ladder",
    "cover": "blanket",
    "move": "cart",
    "brush": "comb",
    "dry": "towel",
    "measure": "ruler",
    "paint": "roller",
}
# whom or what it is done to: the place to go to
PERSONS: dict[str, str] = {
    "teacher": "school",
    "doctor": "hospital",
    "baker": "bakery",
    "sailor": "harbour",
    "farmer": "farm",
    "judge": "court",
    "singer": "theatre",
    "cleaner": "office",
    "pilot": "airport",
    "king": "castle",
    "guard": "prison",
    "priest": "church",
    "player": "stadium",
    "neighbour": "house",
    "librarian": "library",
    "miner": "mine",
}
THINGS: dict[str, str] = {
    "weed": "garden",
    "rat": "cellar",
    "wasp": "attic",
    "log": "forest",
    "nut": "kitchen",
    "carpet": "hall",
    "pumpkin": "field",
    "crab": "beach",
    "moth": "bedroom",
    "mosquito": "lake",
    "beetle": "barn",
    "thistle": "meadow",
    "barrel": "shed",
    "slug": "yard",
    "target": "range",
    "pillow": "tent",
}
COUNTS: dict[str, int] = {"two": 2, "three": 3, "four": 4}
LARGEST_ADDEND = 10  # sums of two numbers from 0 to this

# Words for lists, copies and repetitions: whatever stands without a capital.
PLAIN_WORDS: tuple[str, ...] = tuple(
    dict.fromkeys((*NOUNS, *ADJECTIVES, *BOUGHT, *PETS, *(w for kind in KINDS.values() for w in kind), *THINGS))
)


def article(word: str) -> str:
    """The word with "a" or "an" before it."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
