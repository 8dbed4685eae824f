"""Mapping files: what they declare, checked, and compiled into functions from Change to Event."""

from cdc_tracker.mapping.catalog import check_columns
from cdc_tracker.mapping.compiler import Plan, compile_plan
from cdc_tracker.mapping.declared import Mapping, Mappings, Member, Placed
from cdc_tracker.mapping.examples import ExampleResult, run_examples
from cdc_tracker.mapping.files import load, load_texts, texts
from cdc_tracker.mapping.functions import FUNCTIONS, Function

__all__ = [
    "FUNCTIONS",
    "ExampleResult",
    "Function",
    "Mapping",
    "Mappings",
    "Member",
    "Placed",
    "Plan",
    "check_columns",
    "compile_plan",
    "load",
    "load_texts",
    "run_examples",
    "texts",
]
