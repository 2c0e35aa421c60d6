"""Completion codes that say for whom and for what they were given, without any record of it.

A code is a hash of a panel's id and an outcome under the study's salt. So the operator can check
that somebody with this id has finished, and no table joins ids to answers. It holds after a
withdrawal, too.
"""

import re
from pathlib import Path

from colorlib import ColorlibError
from study.survey.codes import code_from, plain
from study.survey.entry import panel_hash, seal

OUTCOMES = ("finished", "stopped", "declined")


def signed(salt, hashed, outcome) -> str:
    """The code of a panel's id, given as its hash, for an outcome: such as K3QF9-TXAM2."""
    return code_from(int(seal(salt, f"completion {outcome} {hashed}"), 16), groups=2, letters=5)


def completion(protocol, salt, hashed, outcome="finished") -> dict:
    """What the page shows somebody who came from a panel, so that they are paid.

    Args:
        protocol: `study.protocol.Protocol`.
        salt: str. The study's.
        hashed: str or None. The hash of the panel's id.
        outcome: one of `OUTCOMES`. A code that is the same for all is for `finished` only.

    Returns:
        dict: `completion_code` and `completion_url`, as far as the protocol has them.
    """
    panel = protocol.panel
    fields = {"completion_code": panel.completion_code, "completion_url": panel.completion_url}
    if hashed is None:
        return {}
    if outcome != "finished":
        fields = {name: text for name, text in fields.items() if "{code}" in text}
    code = signed(salt, hashed, outcome)
    return {name: text.replace("{code}", code) for name, text in fields.items() if text}


def check(salt, panels, path) -> list[tuple[str, str]]:
    """Reads a panel's list and says of each person what their code stands for.

    Args:
        salt: str. The study's.
        panels: list of `study.protocol.Panel`. Those of the protocols that people were shown.
        path: of a text file. Each line holds an id and a code, with a comma, a semicolon or blanks
            between.

    Returns:
        [(id, outcome)]: one of `OUTCOMES`, `same for all` (a code that tells no person from
        another), `wrong code` (which another's is, too) or `no code`.

    Raises:
        ColorlibError: the file can't be read, or no panel has a code of the person's own.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ColorlibError(f"{path}: can't be read ({reason}); give a text file of ids") from None
    fields = [text for panel in panels for text in (panel.completion_code, panel.completion_url)]
    if not any("{code}" in text for text in fields):
        raise ColorlibError(
            "panel.completion_code and panel.completion_url have no {code}: what they show is the "
            "same for all and can't be checked"
        )
    same = {plain(text) for text in fields if text and "{code}" not in text}
    people = [re.split(r"[,;\s]+", line.replace('"', "").strip(), maxsplit=1) for line in lines]
    return [(name, _outcome(salt, same, name, rest)) for name, *rest in people if name]


def _outcome(salt, same, name, rest):
    given = plain("".join(rest))
    if not given:
        return "no code"
    hashed = panel_hash(salt, name)
    for outcome in OUTCOMES:
        # A protocol may write something before and after the code.
        if plain(signed(salt, hashed, outcome)) in given:
            return outcome
    return "same for all" if given in same else "wrong code"
