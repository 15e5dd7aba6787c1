"""Forms: what an answer must look like, told by a JSON Schema, and reading a person's words or a program's value as it.

`form` is what the rest of wakeloop uses; `dialogue` fills one in by text messages. Below them stand, each on the next:
`fields` (a page's inputs), `reading` (words and values), `reasons` (why a value does not fit), `validating` (where it does
not), `schema` (what a schema asks for) and `text` (single values as people write them).
"""

from wakeloop.forms.fields import FieldSpec
from wakeloop.forms.form import (
    Form,
    FormErrors,
    check,
    describe,
    fields_for,
    form_of,
    read_fields,
    read_text,
    values_for,
)

__all__ = [
    "FieldSpec",
    "Form",
    "FormErrors",
    "check",
    "describe",
    "fields_for",
    "form_of",
    "read_fields",
    "read_text",
    "values_for",
]
