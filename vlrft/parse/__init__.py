"""Completion text to values: the only place that reads a model's text.

A parse failure is a value (None, an empty list, a flag), never an exception: the text comes from a model. One file per
kind of value; every reader is one pass without recursion or catastrophic backtracking, so a hostile megabyte costs
about a second.
"""

from vlrft.parse.boxes import parse_boxes
from vlrft.parse.plain_boxes import ParsedBox
from vlrft.parse.tags import BOXED, OUTPUT_MODES, OutputMode, Parsed, has_tags, match_blocks, parse, visible_length
from vlrft.parse.text import normalise, words
from vlrft.parse.values import PROSE, read_values

__all__ = [
    "BOXED",
    "OUTPUT_MODES",
    "PROSE",
    "OutputMode",
    "Parsed",
    "ParsedBox",
    "has_tags",
    "match_blocks",
    "normalise",
    "parse",
    "parse_boxes",
    "read_values",
    "visible_length",
    "words",
]
