"""What a protocol's texts say, checked: numbers against its design, translations for what is left.

Texts take the numbers of the design by names in braces. A number that is written out is checked as
far as a program can: in English, before a word for what it counts.
"""

import re

from colorlib import ColorlibError

_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_NUMBERS |= {"nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20}
_NUMBERS |= {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100}
_PHOTOS = "photos|photographs|pictures|images|pairs"
_NUMBER = rf"(?<![\w.,-])(\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?|{'|'.join(_NUMBERS)})"
_COUNTED = re.compile(
    rf"{_NUMBER}\s+(?:of\s+the\s+)?(?:\w+\s+)?({_PHOTOS}|seconds|minutes|hours)\b", re.IGNORECASE
)
_HALF = re.compile(
    rf"\bhalf\s+(?:of\s+)?(?:the\s+|your\s+|these\s+)?(?:{_PHOTOS})\b", re.IGNORECASE
)
_KEYS = ("texts.trial.first_key", "texts.trial.second_key")


def fields(protocol) -> dict:
    """{field: text} of all that a participant reads, without keys."""
    content = protocol.model_dump(mode="json", include={"consent", "questions", "texts"})
    del content["consent"]["version"]
    found = dict(_strings(content))
    return {
        name: text
        for name, text in found.items()
        if text and name not in _KEYS and not re.search(r"\.(id|value)$", name)
    }


def _strings(value, at=""):
    if isinstance(value, str):
        yield at[1:], value
    else:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _strings(item, f"{at}.{name}")


def check_numbers(protocol) -> None:
    """Raises a ColorlibError that names the text which contradicts the design.

    Args:
        protocol: `study.protocol.Protocol`.
    """
    values, design = protocol.values(), protocol.design
    photos = {values[name] for name in values if name.endswith("photos")} | {design.scenes}
    known = {
        "seconds": {design.exposure_s, design.pause_s},
        "minutes": {design.minutes},
        "hours": {protocol.resume.max_age_hours},
    }
    if protocol.mode == "2afc":
        photos |= {2}  # of a pair
    for name, text in fields(protocol).items():
        for brace in re.findall(r"\{(\w+_photos)\}", text):
            if not values[brace] and not name.startswith("texts.practice"):  # which isn't shown
                raise ColorlibError(f"{name}: names {{{brace}}}, of which the design has none")
        if not protocol.language.lower().startswith("en"):
            continue
        for number, unit in _COUNTED.findall(text):
            count = float(_NUMBERS.get(number.lower(), number.replace(",", "")))
            right = known.get(unit.lower(), photos)
            if count not in right:
                have = ", ".join(f"{value:g}" for value in sorted(right))
                raise ColorlibError(
                    f"{name}: says '{number} {unit}', where the design has {have}; write a name "
                    "in braces, such as {photos} or {minutes}"
                )
        if _HALF.search(text) and protocol.mode == "yesno" and 2 * design.colored != design.scenes:
            raise ColorlibError(
                f"{name}: says 'half', but {design.colored} of {design.scenes} photos are colored; "
                "write {colored_photos} and {original_photos}"
            )


def untranslated(protocol, packaged) -> list[str]:
    """The fields of a protocol whose text is still that of a packaged protocol of another language.

    Args:
        protocol: `study.protocol.Protocol`.
        packaged: the packaged protocols.
    """
    language = _language(protocol)
    foreign = {
        text
        for other in packaged
        if _language(other) != language
        for text in fields(other).values()
    }
    return [name for name, text in fields(protocol).items() if text in foreign]


def _language(protocol):
    return protocol.language.lower().partition("-")[0]
