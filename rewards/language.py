"""Does the model reason in the language that it was asked in?

Target: none; whatever is given is not looked at.

Meta: `language`: a code (`en`, `zh`, `pt-BR`), an English name (`chinese`) or a script (`cyrillic`). Without it the
script that most letters of `prompt` (or `question`) are in; without either, the one that most letters of the reasoning
are in, so that only mixing is judged.

Answer: letters of the reasoning; of the whole completion without its tags where there is no reasoning (an answer beside
reasoning may have to use Latin labels or keys). Digits, punctuation and symbols are in no script. A text without any
letter has no language: the reward does not apply (None), but a blank completion is worth 0.

Guards: full-width letters count as what they look like; a look-alike from another alphabet counts as that alphabet, so
it costs. Languages that share a script cannot be told apart: German passes for English. Latin formulas and names inside
Chinese text cost their letters; `allow` exempts a script.

Source: the language consistency reward of DeepSeek-R1 (share of words in the target language), by letters and scripts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed, visible_length
from vlrft.parse.units import scripts, without_tags
from vlrft.rewards.base import TargetError
from vlrft.types import Score

_BY_SCRIPT: dict[tuple[str, ...], str] = {
    ("LATIN",): "en de fr es it pt nl sv da no nb nn fi is pl cs sk sl hr hu ro sq et lv lt tr az uz id ms tl vi sw af "
    "ca eu gl cy ga la english german french spanish italian portuguese dutch swedish danish norwegian finnish polish "
    "czech slovak hungarian romanian turkish indonesian malay vietnamese swahili latin",
    ("CJK", "HIRAGANA", "KATAKANA"): "ja japanese",
    ("CJK",): "zh chinese mandarin cantonese yue cjk",
    ("HANGUL",): "ko korean hangul",
    ("CYRILLIC",): "ru uk be bg sr mk kk ky mn russian ukrainian bulgarian serbian cyrillic",
    ("ARABIC",): "ar fa ur ps arabic persian farsi urdu",
    ("GREEK",): "el greek",
    ("HEBREW",): "he iw yi hebrew yiddish",
    ("DEVANAGARI",): "hi mr ne sa hindi marathi nepali devanagari",
    ("BENGALI",): "bn as bengali",
    ("TAMIL",): "ta tamil",
    ("TELUGU",): "te telugu",
    ("GUJARATI",): "gu gujarati",
    ("GURMUKHI",): "pa punjabi gurmukhi",
    ("KANNADA",): "kn kannada",
    ("MALAYALAM",): "ml malayalam",
    ("THAI",): "th thai",
    ("LAO",): "lo lao",
    ("KHMER",): "km khmer",
    ("MYANMAR",): "my burmese myanmar",
    ("GEORGIAN",): "ka georgian",
    ("ARMENIAN",): "hy armenian",
    ("ETHIOPIC",): "am ti amharic ethiopic",
}
SCRIPTS: dict[str, tuple[str, ...]] = {name: s for s, names in _BY_SCRIPT.items() for name in names.split()}
"""Language code, language or script to the scripts that it is written in."""


def consistency(parsed: Parsed, target: Any, meta: Mapping[str, Any], *, allow: Sequence[str] = ()) -> Score:
    """Share of the letters that are in the expected script.

    Formula: letters in the expected scripts / all letters
    Range: [0, 1]

    allow: further languages or scripts whose letters are neither right nor wrong, such as ["latin"] for formulas.

    Example: score("language.consistency", "<think>ab\u0436\u0436</think>", None, {"language": "en"}) -> 0.5
    """
    exempt = {script for name in allow for script in _scripts_of(name, "allow")}
    wanted = _expected(meta)
    text = parsed.think if parsed.think is not None else without_tags(parsed.text)
    found = scripts(text)
    wanted = wanted or tuple(script for script, _ in found.most_common(1))
    letters = {script: times for script, times in found.items() if script in wanted or script not in exempt}
    if not letters:
        return Score(value=None if visible_length(text) else 0.0, flags=parsed.flags)
    return Score(value=sum(letters.get(script, 0) for script in wanted) / sum(letters.values()), flags=parsed.flags)


def _expected(meta: Mapping[str, Any]) -> tuple[str, ...]:
    language = meta.get("language")
    if language is not None:
        return _scripts_of(language, "meta['language']")
    prompt = meta.get("prompt", meta.get("question"))
    if prompt is not None and not isinstance(prompt, str):
        raise TargetError(f"meta['prompt'] is a {type(prompt).__name__}; give the text of the question")
    found = scripts(without_tags(prompt or ""))
    if found["HIRAGANA"] + found["KATAKANA"] > 0 and found["CJK"] >= max(found.values()):
        return SCRIPTS["ja"]
    main = tuple(script for script, _ in found.most_common(1))
    return SCRIPTS["ja"] if main in (("HIRAGANA",), ("KATAKANA",)) else main


def _scripts_of(language: Any, field: str) -> tuple[str, ...]:
    name = str(language).strip().casefold() if isinstance(language, str) else ""
    found = SCRIPTS.get(name) or SCRIPTS.get(name.replace("_", "-").partition("-")[0])
    if found is None:
        raise TargetError(f"{field} is {language!r}; give a language code such as 'en' or 'zh', or a script")
    return found
