"""A private name of a library, and whether the installed version has it as it is used here."""

from __future__ import annotations

import dis
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType, ModuleType
from typing import Any


class PrivateNameError(RuntimeError):
    """The installed version of a library lacks private names that this package cannot do without."""


@dataclass(frozen=True, kw_only=True)
class PrivateName:
    """A name that a library may change in any release."""

    path: str
    """`MODULE:ATTRIBUTES`, or `MODULE` alone. Attributes of objects count, where a class assigns them."""
    used_in: tuple[str, ...]
    """Modules of this package, and scripts by their path."""
    without_it: str
    """What is lost with the name, as the end of "without it, ..."."""
    test: str
    """The file with the tests that fail when its behaviour changes."""
    is_vital: bool = True
    """Whether its user must not start without it. Otherwise a report or some speed is lost."""
    parameters: tuple[str, ...] = ()
    """What it must accept by name."""
    looked_up_by: tuple[str, ...] = ()
    """Of a name that is replaced: the library's functions that must look it up, or nothing would happen."""
    is_costly: bool = False
    """Whether its module is not imported for the check. It is looked at where it has been imported anyway."""
    package: str = ""
    """A package that not every installation has. Without it there is nothing to check."""

    @property
    def library(self) -> str:
        """The top-level package that the name belongs to."""
        return self.path.partition(":")[0].partition(".")[0]

    def problem(self, *, everything: bool = False) -> str | None:
        """Returns what the installed version lacks of it, or None.

        `everything` looks at costly modules too.
        """
        if self.package and not _is_installed(self.package):
            return None
        path = self.path
        try:
            found = _resolve(path, is_import_allowed=everything or not self.is_costly)
        except _NotLoadedError:
            return None
        except _MissingError as error:
            return str(error)
        if missing := [name for name in self.parameters if not _accepts(found, name)]:
            return f"{path} does not accept {', '.join(missing)}"
        for caller in self.looked_up_by:
            try:
                function = _resolve(caller, is_import_allowed=everything)
            except _NotLoadedError:
                continue
            except _MissingError as error:
                return f"{error}, which is to look {path} up"
            owner, name = _split(path)
            if not looks_up(function, _resolve(owner, is_import_allowed=True), name):
                return f"{caller} does not look {path} up any more"
        return None


class _MissingError(Exception):
    pass


class _NotLoadedError(Exception):
    pass


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it has been put into `sys.modules` by hand, as vLLM does with `triton_kernels`
        return True


def _split(path: str) -> tuple[str, str]:
    """The path of the module or class that a name is looked up in, and the name."""
    module, _, attributes = path.partition(":")
    outer, _, name = attributes.rpartition(".")
    return (f"{module}:{outer}" if outer else module), name


def _resolve(path: str, *, is_import_allowed: bool) -> Any:
    """Returns what a path stands for; None for an attribute that only objects have."""
    name, _, attributes = path.partition(":")
    found: Any = sys.modules.get(name)
    if found is None:
        if not is_import_allowed:
            raise _NotLoadedError
        try:
            found = importlib.import_module(name)
        except ImportError as error:
            raise _MissingError(f"{name} cannot be imported ({error})") from error
    walked = name
    for attribute in filter(None, attributes.split(".")):
        walked += (":" if walked == name else ".") + attribute
        try:
            found = getattr(found, attribute)
        except AttributeError:
            if isinstance(found, type) and attribute in attributes_of_objects(found):
                found = None
                continue
            raise _MissingError(f"there is no {walked}") from None
    return found


@cache
def attributes_of_objects(kind: type) -> set[str]:
    """Returns the attributes that a class declares or that its methods assign to `self`."""
    names: set[str] = set()
    for one in kind.__mro__:
        names |= set(inspect.get_annotations(one))
        for method in vars(one).values():
            method = inspect.unwrap(getattr(method, "__func__", method))
            if isinstance(method, FunctionType):
                names |= {
                    str(step.argval)
                    for code in _codes(method.__code__)
                    for step in dis.get_instructions(code)
                    if step.opname == "STORE_ATTR"
                }
    return names


def looks_up(function: Any, owner: Any, name: str) -> bool:
    """Whether a function takes `name` from `owner` (a module or a class) each time it runs.

    As a global it counts only where the function's globals are the owner's: another module that has imported
    the name has a copy. As an attribute it always counts, since it cannot be seen of what.
    """
    function = _plain(function)
    if not isinstance(function, FunctionType):
        return False
    own_globals = isinstance(owner, ModuleType) and vars(owner) is function.__globals__
    for code in _codes(function.__code__):
        imported = ""
        for step in dis.get_instructions(code):
            if step.opname == "IMPORT_NAME":
                imported = step.argval
            if step.argval == name and (
                step.opname in ("LOAD_ATTR", "LOAD_METHOD")
                or (step.opname == "LOAD_GLOBAL" and own_globals)
                or (step.opname == "IMPORT_FROM" and imported == getattr(owner, "__name__", None))
            ):
                return True
    return False


def _plain(function: Any) -> Any:
    """The function below decorators, of a method, of a property, or that makes objects of a class."""
    if isinstance(function, property):
        function = function.fget
    if isinstance(function, type):
        function = function.__init__  # type: ignore[misc]
    return inspect.unwrap(getattr(function, "__func__", function))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yields the code of a function and of those that are defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _accepts(found: Any, name: str) -> bool:
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return True  # of compiled code; nothing can be known
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
