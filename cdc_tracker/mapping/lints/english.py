"""English names of tables and columns, taken apart."""

from __future__ import annotations

import re

_IRREGULAR = {"people": "person", "children": "child", "men": "man", "women": "woman", "feet": "foot", "mice": "mouse"}
_IRREGULAR |= {"indices": "index", "matrices": "matrix", "vertices": "vertex", "criteria": "criterion", "quizzes": "quiz"}
_IRREGULAR |= {f"{stem}ves": f"{stem}f" for stem in ("hal", "lea", "shel", "thie", "wol")} | {"lives": "life", "wives": "wife"}
_IRREGULAR |= {f"{stem}ses": f"{stem}sis" for stem in ("analy", "cri", "diagno", "hypothe", "parenthe", "synop", "the")}
_SAME = re.compile(
    r"alias|analytics|atlas|aws|bias|canvas|dns|gas|goods|gps|https|ios|lens|news|os|pos|saas|series|sms|species|tls"
)
_PLURAL = re.compile(r"(gur|men|sk|cp|gp)us|(ap|emoj|kp|sk|tax|wik)is")
"""Plurals that end as the singulars `status` and `analysis` do."""
_ONLY_S = re.compile(r"(.*[ao]|exc|re)?uses|.*[aeiou]zes|.*(?<![oue])aches|(mov|cook|zomb|.)ies|(sh|t|f|can)oes")
"""Plurals that lose an `s`, though they end as `boxes`, `companies` and `heroes` do."""


def words(name: str) -> list[str]:
    """`orderItems`, `order_items`, `Order Items` → `order`, `items`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word] or [name.lower()]


def singular(word: str) -> str:
    """The singular of a lower-case English noun, as far as a few rules carry."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if _SAME.fullmatch(word) or not word.endswith("s") or (word.endswith(("ss", "us", "is")) and not _PLURAL.fullmatch(word)):
        return word
    if _ONLY_S.fullmatch(word):
        return word[:-1]
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes", "uses", "oes")) or (
        word.endswith("es") and _SAME.fullmatch(word[:-2])
    ):
        return word[:-2]
    return word[:-1]


def snake(name: str) -> str:
    """`Order Item` → `order_item`."""
    return "_".join(words(name))
