"""Units and scale words as texts write them, by what they measure and how large they are."""

import msgspec


class Unit(msgspec.Struct, frozen=True, gc=False):
    """What a number counts: ``dimension`` and its size in that dimension's base unit."""

    dimension: str
    size: float = 1.0
    name: str = ""
    """Where two of a dimension are not to be converted (currencies)."""

    def agrees(self, other: "Unit") -> bool:
        """Whether a number in one may be compared with a number in the other."""
        if self.dimension != other.dimension:
            return False
        return not self.name or not other.name or self.name == other.name


def _units(dimension: str, table: dict[float, str]) -> dict[str, Unit]:
    return {word: Unit(dimension, size) for size, words in table.items() for word in words.split()}


def _money(name: str, words: str, size: float = 1.0) -> dict[str, Unit]:
    return {word: Unit("money", size, name) for word in words.split()}


CURRENCIES: dict[str, Unit] = {
    "$": Unit("money", 1.0, ""),
    **_money("usd", "USD"),
    **_money("eur", "€ EUR"),
    **_money("gbp", "£ GBP"),
    **_money("yen", "¥ JPY CNY"),
    **_money("inr", "₹ INR"),
    **_money("chf", "CHF"),
    **_money("cad", "CAD"),
    **_money("aud", "AUD"),
}
"""Before a number. ``$`` alone may be any dollar."""

UNITS: dict[str, Unit] = {
    **_units("percent", {1: "% percent pct prozent procent", 0.1: "‰"}),
    **CURRENCIES,
    **_money("", "dollar dollars bucks cents cent"),
    **_money("", "cents cent ct", 0.01),
    **_money("eur", "euro euros"),
    **_money("yen", "yen yuan"),
    **_money("inr", "rupee rupees"),
    **_units(
        "duration",
        {
            0.001: "ms millisecond milliseconds",
            1: "s sec secs second seconds sekunde sekunden seconde secondes segundos",
            60: "min mins minute minutes minuten minutos",
            3600: "h hr hrs hour hours stunde stunden heure heures hora horas",
            86_400: "day days tag tage tagen jour jours día días",
            604_800: "week weeks woche wochen semaine semaines semana semanas",
        },
    ),
    **_units(
        "months", {1: "month months monat monate monaten mois mes meses", 12: "year years yr yrs"}
    ),
    **_units("months", {12: "jahr jahre jahren an ans année années año años"}),
    **_units(
        "length",
        {
            0.001: "mm millimeter millimeters millimetre millimetres",
            0.01: "cm centimeter centimeters centimetre centimetres",
            1: "m meter meters metre metres",
            1000: "km kilometer kilometers kilometre kilometres",
            0.0254: "inch inches",
            0.3048: "ft foot feet",
            0.9144: "yard yards yd",
            1609.344: "mile miles mi",
        },
    ),
    **_units(
        "mass",
        {
            0.001: "mg milligram milligrams",
            1: "g gram grams gramm",
            1000: "kg kgs kilo kilos kilogram kilograms kilogramm",
            453.59237: "lb lbs",
            28.349523: "oz ounce ounces",
            1e6: "tonne tonnes",
        },
    ),
    **_units(
        "bytes",
        {1: "byte bytes", 1e3: "KB kB", 1e6: "MB", 1e9: "GB", 1e12: "TB"},
    ),
    **_units("temperature", {1: "°C °F ° degree degrees celsius fahrenheit"}),
    **_units("speed", {1: "mph", 1.0001: "km/h kmh"}),
    **_units("power", {1: "W watt watts", 1e3: "kW", 1e6: "MW"}),
    **_units("energy", {1: "Wh", 1e3: "kWh", 1e6: "MWh"}),
}
"""After a number. Letters keep their case where it tells (``MB``); longer words are lower case."""
del UNITS["an"]

SCALES: dict[str, int] = {
    "hundred": 100,
    "thousand": 10**3,
    "tausend": 10**3,
    "mille": 10**3,
    "mil": 10**3,
    "k": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "millions": 10**6,
    "millionen": 10**6,
    "mio": 10**6,
    "mn": 10**6,
    "m": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "billions": 10**9,
    "bn": 10**9,
    "milliarden": 10**9,
    "milliards": 10**9,
    "mrd": 10**9,
    "b": 10**9,
    "trillion": 10**12,
}
