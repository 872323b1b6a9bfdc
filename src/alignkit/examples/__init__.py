"""Sources to examples: files, generators, layouts and the checks that need no model. Imports nothing heavy."""

from alignkit.examples.files import local_files
from alignkit.examples.generate import GENERATORS, generated_rows
from alignkit.examples.layouts import LAYOUTS, Layout, plain_text, recognise
from alignkit.examples.precheck import at_field, precheck, recognised
from alignkit.examples.sources import examples_of, iter_rows, read_source
from alignkit.examples.types import SHAPES, Dropped, Example, Row

__all__ = [
    "GENERATORS",
    "LAYOUTS",
    "SHAPES",
    "Dropped",
    "Example",
    "Layout",
    "Row",
    "at_field",
    "examples_of",
    "generated_rows",
    "iter_rows",
    "local_files",
    "plain_text",
    "precheck",
    "read_source",
    "recognise",
    "recognised",
]
