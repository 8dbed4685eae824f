"""Mapping files: read, checked, and compiled into functions from Change to Event.

Within the room imports go one way: examples and findings → lints and typing → compiler → schema → language.
"""

from cdc_tracker.mapping.compiler.compile import Plan, compile_plan
from cdc_tracker.mapping.compiler.conditions import alone, parts
from cdc_tracker.mapping.examples import ExampleResult, run_examples
from cdc_tracker.mapping.findings import faults, findings
from cdc_tracker.mapping.language.functions import FUNCTIONS, Function
from cdc_tracker.mapping.schema.declared import Mapping, Mappings, Member, Placed
from cdc_tracker.mapping.schema.files import load, load_texts, texts

__all__ = [
    "FUNCTIONS",
    "ExampleResult",
    "Function",
    "Mapping",
    "Mappings",
    "Member",
    "Placed",
    "Plan",
    "alone",
    "compile_plan",
    "faults",
    "findings",
    "load",
    "load_texts",
    "parts",
    "run_examples",
    "texts",
]
