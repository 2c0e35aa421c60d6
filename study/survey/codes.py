"""Codes that a person reads and may have to type."""

import secrets

# No 0 and O, no 1, I and L.
_LETTERS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"


def code(groups=3) -> str:
    """A random code such as K3QF-9TXA-M2WD: five bits a letter or a little less."""
    return code_from(secrets.randbits(256), groups)


def code_from(number, groups, letters=4) -> str:
    """The code that a large random number stands for."""
    text = ""
    for _ in range(groups * letters):
        number, letter = divmod(number, len(_LETTERS))
        text += _LETTERS[letter]
    return grouped(text, letters)


def grouped(text, letters=4) -> str:
    """A code's letters with a hyphen after every few."""
    return "-".join(text[start : start + letters] for start in range(0, len(text), letters))


def plain(text) -> str:
    """A code as it was typed, without what does not matter: case, hyphens, blanks."""
    return "".join(letter for letter in text.upper() if letter.isascii() and letter.isalnum())
