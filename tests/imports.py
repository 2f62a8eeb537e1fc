"""What a file imports, wherever the import stands."""

from __future__ import annotations

import ast
from pathlib import Path


class Imports(ast.NodeVisitor):
    """Dotted names that a file imports: those of its run, and apart from them those for type checkers."""

    def __init__(self) -> None:
        self.run: set[str] = set()
        self.checked: set[str] = set()
        self.num_relative = 0
        self._into = self.run

    @classmethod
    def of(cls, file: Path) -> Imports:
        """The imports of a file of Python."""
        found = cls()
        found.visit(ast.parse(file.read_text()))
        return found

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            self._into = self.checked
            for statement in node.body:
                self.visit(statement)
            self._into = self.run
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._into.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or not node.module:
            self.num_relative += 1
        else:
            self._into.update(f"{node.module}.{alias.name}" for alias in node.names)
