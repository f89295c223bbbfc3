"""Validates JSON lines with `schema`, `value` and `is_valid` by Python's jsonschema; the argument is the folder of schemas.

Prints what differs, and how many lines it has read.
"""

import json
import pathlib
import sys

import jsonschema

folder, validators, count = pathlib.Path(sys.argv[1]), {}, 0
for line in sys.stdin:
    case = json.loads(line)
    name = case["schema"]
    if name not in validators:
        schema = json.loads((folder / f"{name}.v1.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        validators[name] = jsonschema.Draft202012Validator(schema)
    errors = [f"{error.message} at {error.json_path}" for error in validators[name].iter_errors(case["value"])]
    if case["is_valid"] == bool(errors):
        print(f"{name}: {json.dumps(case['value'])[:500]}: {errors}")
    count += 1
print(f"{count} lines")
