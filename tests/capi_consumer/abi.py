"""What a compiled caller of bnfast.h depends on: versions, numbers, offsets, sizes, functions, one a line.

    python tests/capi_consumer/abi.py > tests/capi_consumer/abi.txt

writes it down anew, after something was added to the header. tests/test_capi.py compares the header with the file: what
was added at the end passes, if BNFAST_API_VERSION has grown; anything else breaks programs that are compiled already,
and wants another BNFAST_ABI_VERSION. (Before the first release nothing is compiled yet: just write it down anew.)
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = Path(__file__).resolve().parents[2] / "bnfast" / "include" / "bnfast.h"
GOLDEN = Path(__file__).with_name("abi.txt")
VERSIONS = "BNFAST_ABI_VERSION", "BNFAST_API_VERSION"


def describe(header=HEADER):
    """The lines, computed by a C program that is made of the names in the header."""
    text = re.sub(r"/\*.*?\*/", "", Path(header).read_text(), flags=re.S)
    prints = [f'printf("number {name} %lld\\n", (long long){name});' for name in VERSIONS]
    for body in re.findall(r"enum\s*\{(.*?)\}", text, re.S):
        for name in re.findall(r"\w+", body):
            prints.append(f'printf("number {name} %lld\\n", (long long){name});')
    for body, name in re.findall(r"typedef struct\s*\{(.*?)\}\s*(\w+);", text, re.S):
        prints.append(f'printf("size {name} %zu\\n", sizeof({name}));')
        for field in fields(body):
            where = f"offsetof({name}, {field}), sizeof((({name} *)0)->{field})"
            prints.append(f'printf("field {name}.{field} %zu %zu\\n", {where});')
    functions = re.findall(r"^static inline (.*?\))\s*\{", text, re.S | re.M)
    functions += re.findall(r"^ +(\w[\w *]*\(\*\w+\)\(.*?\));", text, re.S | re.M)
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "abi.c"), Path(folder, "abi")
        body = "\n    ".join(prints)
        includes = f'#include <stddef.h>\n#include <stdio.h>\n#include "{Path(header).resolve()}"'
        source.write_text(f"{includes}\nint main(void) {{\n    {body}\n    return 0;\n}}\n")
        subprocess.run(["cc", source, "-o", program], check=True)
        lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return lines + [f"function {' '.join(name.split())}" for name in functions]


def fields(body):
    """The names of a struct's members."""
    for member in body.split(";"):
        pointer = re.search(r"\(\*(\w+)\)", member)
        if pointer:
            yield pointer[1]
        elif member.strip():
            yield from re.findall(r"(\w+)\s*(?:,|$)", member.strip())


def complaints(old, new):
    """What of the lines `old` does not hold in `new` any more, in words; nothing, if it only grew."""
    before, after = table(old), table(new)
    grows = {"number BNFAST_API_VERSION", "number BNFAST_STATUSES"}
    wrong, added = [], sorted(after.keys() - before.keys())
    for name, value in before.items():
        if name not in after:
            wrong.append(f"{name}: is gone")
        elif after[name] != value and not (
            (name in grows or name.startswith("size ")) and int(after[name]) > int(value)
        ):
            wrong.append(f"{name}: was {value}, is {after[name]}")
    for name in added:
        owner = re.match(r"field (\w+)\.", name)
        end = before.get(f"size {owner[1]}") if owner else None
        if end and int(after[name].split()[0]) < int(end):
            wrong.append(f"{name}: is new, but not at the end")
    if added and after["number BNFAST_API_VERSION"] == before["number BNFAST_API_VERSION"]:
        wrong.append(f"{', '.join(added)}: new, but BNFAST_API_VERSION is still {before['number BNFAST_API_VERSION']}")
    return wrong


def table(lines):
    """{what: its value}"""
    split = [(line, "") if line.startswith("function ") else line.split(" ", 2) for line in lines]
    return {" ".join(parts[:-1]): parts[-1] for parts in split}


if __name__ == "__main__":
    print("\n".join(describe(*sys.argv[1:])))
