"""The only writer of ``runs/<id>``: files are redacted, written atomically, and readable by their
owner alone.

Every folder has mode 0700 and every file 0600 (0700 if executable), whatever the umask. Texts,
JSON and logs pass through the run's :class:`ci.redaction.Redactor`. Content that must not be
changed (signed, encrypted, already rendered) is written with :meth:`RunFolder.verbatim`, whose
caller is responsible for it. A unit test checks that nothing else in ``ci`` writes there.
"""

from __future__ import annotations

import errno
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from xml.etree.ElementTree import Element, ParseError, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ci.errors import DiskFull
from ci.redaction import Redactor, Stream

FOLDER, FILE, PROGRAM = 0o700, 0o600, 0o700
"""Permissions."""


class RunFolder:
    """A run's folder, or one below it. ``redactor`` knows the run's secrets."""

    def __init__(self, path: Path, redactor: Redactor | None = None, *, top: Path | None = None):
        self.path = path
        self.redactor = redactor if redactor is not None else Redactor()
        self._top = top if top is not None else path

    def below(self, *parts: str) -> RunFolder:
        """A folder inside; made when something is written into it, or by :meth:`make`."""
        return RunFolder(self.path.joinpath(*parts), self.redactor, top=self._top)

    def make(self) -> Path:
        """Create the folder, readable by its owner alone."""
        return self._made(self.path)

    def text(self, name: str, text: str) -> Path:
        """Write a text, redacted. ``name`` may have folders in it."""
        return self._write(name, self.redactor.text(text).encode("utf-8", "replace"))

    def json(self, name: str, value: Any, *, indent: int = 1) -> Path:
        """Write data as JSON, each text in it redacted. A value that JSON has no type for is
        written as its ``str``."""
        return self._write(name, (dumped(value, self.redactor, indent=indent) + "\n").encode())

    def rendered(self, name: str, text: str) -> Path:
        """Write a document that was rendered from redacted values, such as HTML; only known secrets
        are removed from it."""
        return self._write(name, self.redactor.known(text).encode("utf-8", "replace"))

    def verbatim(self, name: str, content: bytes, *, executable: bool = False) -> Path:
        """Write the content unchanged: signed, encrypted, or a script that contains only names."""
        return self._write(name, content, PROGRAM if executable else FILE)

    def junit(self, name: str, source: Path) -> Path | None:
        """Copy a JUnit file that a program wrote elsewhere; ``None`` when it wrote none.

        Names of cases are kept, except for parts with the shape of a secret; messages, captured
        output and properties are redacted. A file that is not XML is redacted as text.
        """
        try:
            raw = source.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        try:
            root: Element = fromstring(raw)
        except (ParseError, DefusedXmlException, ValueError):
            return self.text(name, raw)
        for element in root.iter():
            for key, value in element.attrib.items():
                named = key in ("name", "classname", "file") and element.tag != "property"
                clean = self.redactor.shape if named else self.redactor.text
                element.set(key, clean(value))
            if element.tag == "property" and element.get("value"):
                pair = self.redactor.tree({element.get("name", ""): element.get("value")})
                element.set("value", str(next(iter(pair.values()))))
            element.text = self.redactor.text(element.text) if element.text else element.text
            element.tail = self.redactor.text(element.tail) if element.tail else element.tail
        return self._write(name, tostring(root, encoding="utf-8", xml_declaration=True))

    @contextmanager
    def log(self, name: str) -> Iterator[Log]:
        """A file that is appended to line by line while in the block, each source by itself."""
        with self._full():
            path = self.path / name
            self._made(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as sink:
                os.fchmod(sink.fileno(), FILE)
                log = Log(sink, self.redactor)
                try:
                    yield log
                finally:
                    log.close()

    def append(self, name: str, text: str) -> None:
        """Append whole lines, redacted, to a file that is not kept open."""
        with self.log(name) as log:
            log.write(text)

    def append_json(self, name: str, value: Any) -> None:
        """Append one line of JSON, as :meth:`json` writes it."""
        with self.log(name) as log:
            log.rendered(dumped(value, self.redactor, indent=None) + "\n")

    def pack(self) -> Path:
        """Pack the folder into one archive next to it, to be passed on. It contains no user names
        or ids."""
        archive = self.path.with_name(f"{self.path.name}.tar.gz")
        part = archive.with_name(f".{archive.name}.{os.getpid()}")

        def private(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mode = FOLDER if entry.isdir() else (PROGRAM if entry.mode & 0o100 else FILE)
            return entry if entry.isdir() or entry.isfile() else None

        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE)
            with (
                os.fdopen(descriptor, "wb") as sink,
                tarfile.open(fileobj=sink, mode="w:gz") as packed,
            ):
                packed.add(self.path, arcname=self.path.name, filter=private)
            part.replace(archive)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return archive

    def seal(self) -> None:
        """Make every file readable by the owner alone, also those that programs wrote directly."""
        for folder, _, files in os.walk(self.path):
            with suppress(OSError):
                os.chmod(folder, FOLDER)
            for name in files:
                path = Path(folder, name)
                with suppress(OSError):
                    if not path.is_symlink():
                        runs = path.stat().st_mode & 0o100
                        path.chmod(PROGRAM if runs else FILE)

    def _made(self, folder: Path) -> Path:
        above = [folder, *folder.parents]
        folders = above[: above.index(self._top) + 1]
        self._top.parent.mkdir(parents=True, exist_ok=True)
        for each in reversed(folders):
            each.mkdir(mode=FOLDER, exist_ok=True)
            if each.stat().st_mode & 0o777 != FOLDER:
                each.chmod(FOLDER)
        return folder

    def _write(self, name: str, content: bytes, mode: int = FILE) -> Path:
        path = self.path / name
        self._made(path.parent)
        part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        with self._full():
            try:
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
                with os.fdopen(descriptor, "wb") as sink:
                    os.fchmod(sink.fileno(), mode)
                    sink.write(content)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return path

    @contextmanager
    def _full(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"no disk space left to write {self.path}") from problem
            raise


class Log:
    """A file that is appended to. Thread-safe; what is written after :meth:`close` is dropped."""

    def __init__(self, sink: IO[str], redactor: Redactor) -> None:
        self._sink = sink
        self._redactor = redactor
        self._lock = threading.Lock()
        self._sources: list[Source] = []
        self._closed = False

    def write(self, text: str) -> None:
        """A whole text, redacted by itself."""
        self.rendered(self._redactor.text(text))

    def rendered(self, text: str) -> None:
        """A text that was redacted already."""
        with self._lock:
            if text and not self._closed:
                self._sink.write(text)
                self._sink.flush()

    def source(self) -> Source:
        """For one stream of a program, whose pieces may split a secret."""
        source = Source(self, self._redactor.stream())
        with self._lock:
            self._sources.append(source)
        return source

    def close(self) -> None:
        for source in self._sources:
            source.end()
        with self._lock:
            self._closed = True


class Source:
    """One stream of a program on its way into a log."""

    def __init__(self, log: Log, stream: Stream) -> None:
        self._log = log
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, piece: str) -> None:
        with self._lock:
            self._log.rendered(self._stream.feed(piece))

    def end(self) -> None:
        """Write what was held back, with a final newline."""
        with self._lock:
            rest = self._stream.end()
            self._log.rendered(rest if not rest or rest.endswith("\n") else f"{rest}\n")


def dumped(value: Any, redactor: Redactor, *, indent: int | None) -> str:
    """JSON of a redacted copy of a value."""
    plain = json.loads(json.dumps(value, default=str))
    return json.dumps(redactor.tree(plain), indent=indent)
