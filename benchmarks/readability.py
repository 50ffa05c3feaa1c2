"""How dense the code is and how much of it says why: operations a line, comments a hundred lines of code.

    python benchmarks/readability.py covsev [--worst 20] [--files]

An operation is a call, an operator, a comparison, a subscript, a conditional expression or the loop of a comprehension.
It counts where it is written. Annotations and docstrings do not count. A comment is a line or a line's end that begins
with ``#``, but for rulers and marks for tools (``noqa``, ``type:``). A string below a constant, which says what it is
for, is a comment, too. Lines of code are those with a token that is neither a comment nor a docstring.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RULER = re.compile(r"#\s*(-{3,}|={3,}|noqa|type:|fmt:|ruff:|mypy:)")
NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


@dataclass(frozen=True)
class Readability:
    """Of one file.

    Attributes:
        path: of the file.
        operations: of each line of code that has one, by line number.
        code_lines, comments: how many there are.
    """

    path: Path
    operations: dict[int, int]
    code_lines: int
    comments: int


def read(path: Path) -> Readability:
    """Measure one Python file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstrings, below_constants = _strings(tree)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    comments = sum(token.type == tokenize.COMMENT and not RULER.match(token.string) for token in tokens)
    code = {line for t in tokens if t.type not in NOT_CODE for line in range(t.start[0], t.end[0] + 1)}
    code -= docstrings | below_constants
    operations = Counter(line for line in _operations(tree) if line in code)
    return Readability(path, dict(operations), len(code), comments + _runs(below_constants))


def _strings(tree: ast.Module) -> tuple[set[int], set[int]]:
    """Lines of docstrings, and of strings below a constant."""
    docstrings: set[int] = set()
    below: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for position, statement in enumerate(body):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                after_constant = position > 0 and isinstance(body[position - 1], ast.Assign | ast.AnnAssign)
                lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
                (below if after_constant else docstrings).update(lines)
    return docstrings, below


def _runs(lines: set[int]) -> int:
    """Lines of text; each counts, as each line of a ``#`` comment does."""
    return len(lines)


def _operations(node: ast.AST) -> Iterator[int]:
    """The line of each operation at or below ``node``."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _operations(child)
    match node:
        case ast.Call(func=left) | ast.Subscript(value=left) | ast.BinOp(left=left):
            yield left.end_lineno or 0
        case ast.Compare(left=left, ops=ops):
            yield from [left.end_lineno or 0] * len(ops)
        case ast.BoolOp(values=values):
            yield from (value.end_lineno or 0 for value in values[:-1])
        case ast.UnaryOp() | ast.IfExp() | ast.comprehension():
            yield (node.target.lineno if isinstance(node, ast.comprehension) else node.lineno)
        case _:
            pass


def summary(files: Sequence[Readability]) -> str:
    """The figures of several files together."""
    counts = [count for file in files for count in file.operations.values()]
    code_lines, comments = (sum(getattr(file, name) for file in files) for name in ("code_lines", "comments"))
    at = {percent: np.percentile(counts, percent) for percent in (50, 90, 99)}
    return (
        f"{len(files)} files, {code_lines} lines of code\n"
        f"operations a line: median {at[50]:.0f}, 90th percentile {at[90]:.0f}, 99th {at[99]:.0f}, most {max(counts)}\n"
        f"comments a hundred lines: {100 * comments / code_lines:.1f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="Python files, or folders of them")
    parser.add_argument("--worst", type=int, default=0, help="also name so many of the densest lines")
    parser.add_argument("--files", action="store_true", help="also print each file's figures")
    options = parser.parse_args(arguments)
    paths = [found for path in options.paths for found in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    files = [read(path) for path in paths]
    print(summary([file for file in files if file.operations]))
    if options.files:
        for file in files:
            most = max(file.operations.values(), default=0)
            per_hundred = 100 * file.comments / max(1, file.code_lines)
            print(f"{file.path}: most {most} operations a line, {per_hundred:.1f} comments a hundred lines")
    lines = sorted(((n, file.path, line) for file in files for line, n in file.operations.items()), reverse=True)
    for count, path, line in lines[: options.worst]:
        print(f"{path}:{line}: {count} operations: {path.read_text(encoding='utf-8').splitlines()[line - 1].strip()}")


if __name__ == "__main__":
    main()
