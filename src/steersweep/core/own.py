"""Code of a user's own, named by where it is: `package.module:Object` or `FILE.py:Object`.

It runs when somebody asks for it by that name, in this process or in one that runs their job, and
at no other time. Whatever is wrong with it is said in one line.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from steersweep.core.errors import InputError, SteersweepError
from steersweep.core.printing import first_line
from steersweep.core.text_files import shown

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_INSTALLED = ("site-packages", "dist-packages")
_T = TypeVar("_T")
# Files that were imported here, with what they held then; Python imports each once.
_imported: dict[Path, str] = {}


def is_own(text: str) -> bool:
    """Whether a name says where something of a user's own is."""
    return ":" in text


@dataclass(frozen=True)
class Own:
    """Where an object of a user's own is, so that another process finds the same one.

    Attributes:
        kind: what it is called in messages, such as `method`.
        module: a dotted name, or the absolute path of a file.
        name: of the object in it.
        folder: what the module, and those beside it, are imported from.
        code: hash of the module's file and of the files beside it that it imports.
    """

    kind: str
    module: str
    name: str
    folder: str
    code: str

    def __str__(self) -> str:
        return f"{self.kind} {self.module}:{self.name}"

    def load(self) -> Any:
        """The object; a class is called without arguments.

        Raises:
            InputError: it cannot be imported or made, or its code is no longer what it was.
        """
        files = self._files()
        if _hash_of(files) != self.code:
            raise InputError(
                f"{self}: its code is not what this began with; a run keeps to one version"
            )
        module = self.running("cannot be imported", lambda: self._import(files))
        if not hasattr(module, self.name):
            there = [name for name, value in vars(module).items() if _is_made_in(value, module)]
            has = f"; it has {', '.join(there[:12])}" if there else ""
            raise InputError(f"{self}: there is no {self.name} in it{has}")
        found = getattr(module, self.name)
        if not isinstance(found, type):
            return found
        return self.running(f"{self.name}() cannot be made", found)

    def running(self, what: str, call: Callable[[], _T]) -> _T:
        """What a call into a user's code returns; what it prints goes to stderr.

        Raises:
            InputError: it raised something; the message has `what`, and the line in their file.
        """
        try:
            with redirect_stdout(sys.stderr):
                return call()
        except SteersweepError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"{self}: {what}: {self._reason(error)}") from error

    def _reason(self, error: BaseException) -> str:
        said = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, SyntaxError):
            return f"{said} (line {error.lineno})" if "line" not in said else said
        frames = traceback.extract_tb(error.__traceback__)
        inside = [frame for frame in frames if Path(frame.filename).is_relative_to(self.folder)]
        if not inside:
            return said
        return f"{said} ({Path(inside[-1].filename).name}, line {inside[-1].lineno})"

    @property
    def _file(self) -> Path:
        if Path(self.module).is_absolute():
            return Path(self.module)
        place = Path(self.folder, *self.module.split("."))
        package = place / "__init__.py"
        return package if package.is_file() else place.with_name(f"{place.name}.py")

    def _files(self) -> dict[Path, bytes]:
        try:
            return _files_of(self._file, Path(self.folder))
        except OSError as error:
            raise InputError(
                f"{self}: {error.strerror} on the machine that should run it"
            ) from error

    def _import(self, files: dict[Path, bytes]) -> ModuleType:
        is_file = Path(self.module).is_absolute()
        for file, data in files.items():
            held = _imported.setdefault(file, _hash(data))
            if held != _hash(data) and not (is_file and file == self._file):
                raise InputError(
                    f"{self}: {file} was changed after it was imported; begin a new process"
                )
        put_on_path(self.folder)
        if not is_file:
            return importlib.import_module(self.module)
        # The code is in the name, so that a changed file is another module.
        name = f"_own_{_hash(self.module.encode())[:8]}_{self.code[:8]}"
        if name in sys.modules:
            return sys.modules[name]
        spec = spec_from_file_location(name, self.module)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def find_own(kind: str, text: str) -> Own:
    """Where a user's own is: a file, or a module on Python's path or in the current folder.

    Nothing but the `__init__.py` of packages above the module is run.

    Args:
        kind: what it is, for messages.
        text: `package.module:Object` or `FILE.py:Object`; a relative path is resolved here.

    Raises:
        InputError: it cannot be read as that, or there is no such file or module.
    """
    module, _, name = text.rpartition(":")
    if module.endswith(".py"):
        file = Path(os.path.abspath(Path(module).expanduser()))
        folder = file.parent
    elif _MODULE.fullmatch(module):
        file, folder = _find_module(kind, text, module)
    else:
        file = folder = Path()
    if not name.isidentifier() or file == folder:
        raise InputError(
            f"{kind} {shown(text)}: cannot be read; give package.module:Class or FILE.py:Class"
        )
    if not file.is_file():
        raise InputError(f"{kind} {shown(text)}: {file}: no such file")
    where = str(file) if module.endswith(".py") else module
    try:
        code = _hash_of(_files_of(file, folder))
    except OSError as error:
        raise InputError(f"{kind} {shown(text)}: cannot be read: {error.strerror}") from error
    return Own(kind, where, name, str(folder), code)


def put_on_path(folder: str) -> None:
    """Import from a folder too, what is not found elsewhere."""
    if folder not in sys.path:
        sys.path.append(folder)


def _find_module(kind: str, text: str, module: str) -> tuple[Path, Path]:
    """A module's file, and the folder that its top package is in."""
    put_on_path(os.getcwd())
    importlib.invalidate_caches()
    asked = Own(kind, module, text.rpartition(":")[2], os.getcwd(), "")
    try:
        with redirect_stdout(sys.stderr):
            spec = find_spec(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            asked.running("cannot be imported", _raising(error))
        spec = None
    except (Exception, SystemExit) as error:
        asked.running("cannot be imported", _raising(error))
        raise AssertionError from error
    if spec is None:
        raise InputError(
            f"{kind} {shown(text)}: no module {module} on Python's path or in the current folder"
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError(f"{kind} {shown(text)}: {module} is no Python file")
    file = Path(os.path.abspath(spec.origin))
    depth = module.count(".") + (file.name == "__init__.py")
    return file, file.parents[depth]


def _raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def _is_made_in(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _files_of(file: Path, folder: Path) -> dict[Path, bytes]:
    """A file and those beside it that it imports, in functions too, and so on; with their bytes.

    Beside it is what lies in the folder that it is imported from; of installed modules, their own
    package.
    """
    installed = folder.name in _INSTALLED
    top = file.relative_to(folder).parts[0]
    found = {file: file.read_bytes()}
    open_ = [file]
    while open_:
        at = open_.pop()
        for name in _names_imported(found[at], at.relative_to(folder).parts[:-1]):
            if installed and name[0] != Path(top).stem:
                continue
            for other in _files_named(folder, name):
                if other not in found:
                    found[other] = other.read_bytes()
                    open_.append(other)
    return found


def _names_imported(data: bytes, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Names of the modules that a file in `package` imports, or may: `from a import b`."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return  # said when it is imported
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*base, alias.name) for alias in node.names)


def _files_named(folder: Path, name: tuple[str, ...]) -> Iterator[Path]:
    """The files that importing a name runs, of those in a folder."""
    for count in range(1, len(name) + 1):
        place = folder.joinpath(*name[:count])
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                yield file


def _hash_of(files: dict[Path, bytes]) -> str:
    """Of what files hold, wherever they lie."""
    return _hash("".join(sorted(_hash(data) for data in files.values())).encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]
