"""Medical visual question answering: closed questions by their type, open ones by a mix of text measures.

Target: `med.closed`: `{"type": "mcq" | "yesno" | "label", "answer": ...}`, the answer as `mcq.letter`, `yesno` or
`cls.label` want it. `med.open`: a string, or a list of strings of which the best counts.

Meta: `med.closed`: `options`, `num_options` or `labels`, as that type wants them. `med.open`: `synonyms`, as text.*.

Answer: the whole answer. Words as text.* has them; then common medical terms and their abbreviations ("magnetic
resonance imaging" and "MRI") become one word on both sides, and the phrases of `synonyms` likewise; "LLL" and the other
lobes of the lung are spelt out.

Guards: a negation that the reference does not have, or the other way round, caps the value at 0.2: "no" and "without"
change two words and turn the finding round. So does the opposite of a word of the reference, such as right for left.
Both go by lists of English words: a negation or an opposite in other words ("ceased", "dextral") is not seen. Tokens
count as multisets, and the value is multiplied by min(1, (3 len_ref + 5) / len_pred), so that listing every diagnosis
or repeating the reference does not pay.

Source: MedCCO (2505.19213) trains on closed, then on open questions; its open-ended formula is unverified, the mix
here is our own. The parts are those of SQuAD (exact match, token F1), ROUGE (Lin 2004) and embedding rewards as in
ARMed and MediX-R1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrft.parse import Parsed, words
from vlrft.rewards.base import TargetError, ordered
from vlrft.rewards.choice import letter, yesno
from vlrft.rewards.classification import label
from vlrft.rewards.polarity import contradicts
from vlrft.rewards.semantic import Embedder, find_embedder, similarities
from vlrft.rewards.text import (
    Synonyms,
    length_guard,
    readable,
    references,
    replace_words,
    rouge_f,
    rouge_tokens,
    shared,
    synonym_table,
    synonyms,
    tokens,
    unread_flags,
)
from vlrft.types import Score

NEGATION_CAP = 0.2
"""The most that an answer with the wrong polarity is worth."""

ABBREVIATIONS: dict[str, tuple[str, ...]] = {
    "abd": ("abdomen",),
    "afib": ("atrial fibrillation", "auricular fibrillation"),
    "aki": ("acute kidney injury",),
    "ards": ("acute respiratory distress syndrome",),
    "avm": ("arteriovenous malformation",),
    "chf": ("congestive heart failure",),
    "ckd": ("chronic kidney disease",),
    "cns": ("central nervous system",),
    "copd": ("chronic obstructive pulmonary disease",),
    "csf": ("cerebrospinal fluid", "cerebral spinal fluid"),
    "ct": ("computed tomography", "computerized tomography", "computerised tomography", "ct scan", "cat scan"),
    "cta": ("ct angiography", "computed tomography angiography"),
    "cva": ("cerebrovascular accident", "stroke"),
    "cxr": ("chest x ray", "chest xray", "chest radiograph"),
    "dvt": ("deep vein thrombosis", "deep venous thrombosis"),
    "dwi": ("diffusion weighted imaging",),
    "ecg": ("electrocardiogram", "electrocardiography", "ekg"),
    "eeg": ("electroencephalogram", "electroencephalography"),
    "ett": ("endotracheal tube",),
    "flair": ("fluid attenuated inversion recovery",),
    "gbm": ("glioblastoma multiforme", "glioblastoma"),
    "gi": ("gastrointestinal",),
    "hcc": ("hepatocellular carcinoma",),
    "h e": ("hematoxylin and eosin", "haematoxylin and eosin", "h and e"),
    "htn": ("hypertension",),
    "ich": ("intracerebral hemorrhage", "intracerebral haemorrhage"),
    "ivc": ("inferior vena cava",),
    "lv": ("left ventricle", "left ventricular"),
    "mi": ("myocardial infarction", "heart attack"),
    "mra": ("magnetic resonance angiography", "mr angiography"),
    "mri": ("magnetic resonance imaging", "mr imaging", "mri scan"),
    "ngt": ("nasogastric tube", "ng tube"),
    "pe": ("pulmonary embolism", "pulmonary embolus"),
    "pet": ("positron emission tomography", "pet scan"),
    "ptx": ("pneumothorax",),
    "rv": ("right ventricle", "right ventricular"),
    "sah": ("subarachnoid hemorrhage", "subarachnoid haemorrhage"),
    "sdh": ("subdural hematoma", "subdural haematoma"),
    "svc": ("superior vena cava",),
    "tb": ("tuberculosis",),
    "tia": ("transient ischemic attack", "transient ischaemic attack"),
    "us": ("ultrasound", "ultrasonography", "sonography", "ultrasound scan"),
    "uti": ("urinary tract infection",),
    "x ray": ("xray", "radiograph", "plain film", "roentgenogram"),
}
"""Short form to the long ones that it replaces. Replacing the long by the short makes one concept one word."""

SPELT_OUT: dict[str, str] = {
    "lll": "left lower lobe",
    "lul": "left upper lobe",
    "rll": "right lower lobe",
    "rml": "right middle lobe",
    "rul": "right upper lobe",
}
"""Short forms that the long one replaces: its words also stand apart, "the lower lobe on the left"."""

_CLOSED: dict[str, Callable[[Parsed, Any, Mapping[str, Any]], Score]] = {
    "mcq": letter,
    "yesno": yesno,
    "yes_no": yesno,
    "label": label,
}


def closed(parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
    """A closed question, judged by `mcq.letter`, `yesno` or `cls.label` as the target's type says.

    Formula: the value of that reward
    Range: [0, 1]

    Example: score("med.closed", "<answer>No</answer>", {"type": "yesno", "answer": "no"}) -> 1.0
    """
    kind = target.get("type") if isinstance(target, Mapping) and "answer" in target else None
    judge = _CLOSED.get(kind) if isinstance(kind, str) else None
    if judge is None:
        raise TargetError(
            f'med.closed: the target must be {{"type": one of {", ".join(_CLOSED)}, "answer": ...}}, got {target!r}; '
            "correct the row, or use med.open for open questions"
        )
    return judge(parsed, target["answer"], meta)


class Open:
    """An open question: exact match, token F1, ROUGE-L and similarity of meaning, weighed.

    Formula: (w1 EM + w2 F1 + w3 ROUGE-L + w4 max(0, cosine)) / (sum of the weights that apply)
    * min(1, (3 len_ref + 5) / len_pred), at most 0.2 where the negation differs or opposites meet
    Range: [0, 1]

    Parts: `med.open.exact`, `.f1`, `.rouge_l`, `.semantic` (None without an embedder) of the reference that counts.

    embedder: a callable from texts to one vector each, or "module:attr" of one. Without it the fourth weight is left
    out.

    weights: of exact match, token F1, ROUGE-L and similarity.

    The negation differs when one text has a cue such as no, not, without, absent, negative, resolved, unlikely, hardly,
    "free of", excluded, "ruled out" and the other has none, or when a word that both have is negated in only one of
    them. Opposites are left and right, benign and malignant, acute and chronic, increased and decreased, present and
    absent, bilateral and unilateral (or one side alone), normal and abnormal, upper and lower, anterior and posterior,
    medial and lateral, proximal and distal: the answer has the one without the other that the reference has, or offers
    both ("left or right").

    Example: score("med.open", "<answer>left lung</answer>", "left lower lung") -> 0.55
    """

    def __init__(
        self, embedder: Embedder | str | None = None, *, weights: Sequence[float] = (0.25, 0.35, 0.2, 0.2)
    ) -> None:
        """Raises ValueError for weights that cannot work, ImportError for an embedder that cannot be loaded."""
        known = all(isinstance(w, int | float) and math.isfinite(w) and w >= 0.0 for w in weights)
        if len(weights) != 4 or not known or sum(weights[: 3 if embedder is None else 4]) <= 0.0:
            raise ValueError(
                "med.open: weights must be four numbers, none negative, for exact match, F1, ROUGE-L and similarity "
                f"(which needs an embedder), got {weights!r}"
            )
        self._embedder = None if embedder is None else find_embedder("med.open", embedder)
        self._weights = tuple(weights)

    def __call__(self, parsed: Parsed, target: Any, meta: Mapping[str, Any]) -> Score:
        known = references("med.open", target)
        table = synonyms("med.open", meta.get("synonyms"), _TABLE)
        answer = readable(parsed)
        if answer is None:
            return Score(value=0.0, flags=unread_flags(parsed))
        semantic: Sequence[float | None] = [None] * len(known)
        if self._embedder is not None:
            semantic = similarities("med.open", self._embedder, answer, known)
        judged = [self._against(answer, r, s, table) for r, s in zip(known, semantic, strict=True)]
        value, guard, parts = max(judged, key=lambda found: found[0])
        flags = ordered({*parsed.flags, *(["over_length"] if guard < 1.0 else [])})
        return Score(value=value, parts=parts, flags=flags)

    def _against(
        self, answer: str, reference: str, semantic: float | None, table: Synonyms
    ) -> tuple[float, float, dict[str, float | None]]:
        """(value, length guard, parts) against one reference."""
        got, wanted = (_terms(tokens(text, reference), table) for text in (answer, reference))
        exact = float(bool(got) and got == wanted)
        f1 = 2.0 * shared(got, wanted) / (len(got) + len(wanted))
        texts = " ".join(got), " ".join(wanted)
        rouge_l = rouge_f("rougeL", *(rouge_tokens(text, texts[1]) for text in texts))
        measured = (exact, f1, rouge_l, semantic)
        weighed = [(w, m) for w, m in zip(self._weights, measured, strict=True) if m is not None]
        guard = length_guard(len(got), len(wanted))
        value = sum(w * m for w, m in weighed) / sum(w for w, _ in weighed) * guard
        if contradicts(answer, reference):
            value = min(value, NEGATION_CAP)
        names = ("med.open.exact", "med.open.f1", "med.open.rouge_l", "med.open.semantic")
        return min(1.0, value), guard, dict(zip(names, measured, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Empty: nothing is learned over a run."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take over."""


def _terms(found: Sequence[str], table: Synonyms) -> list[str]:
    """Words with abbreviations and synonyms made one."""
    terms = replace_words(found, _TABLE)
    return replace_words(terms, table) if table else terms


_TABLE: Synonyms = synonym_table(
    [
        *((tuple(words(long)), tuple(words(short))) for short, longs in ABBREVIATIONS.items() for long in longs),
        *(((short,), tuple(words(long))) for short, long in SPELT_OUT.items()),
    ]
)
