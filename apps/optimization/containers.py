"""Files that come packed: gzip, and a zip with one file in it, unpacked as they are read and never beyond a bound."""

import errno
import gzip
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import Protocol

from apps.optimization.limits import KEEP_FREE, DiskFull
from apps.optimization.readers import BinaryFile, MalformedFile, TooLargeInside

GZIP, ZIP, EMPTY_ZIP = b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06"
CHUNK = 1024**2
# Nothing bounds what comes out of a zip's bzip2 and LZMA: so little of them becomes 100 MB at most.
SMALL_CHUNK = 4096
UNPACKED = "unpacked"  # the name of what was unpacked
MOST_RATIO = 200  # text packs to a twentieth, a log of repeats to a hundredth; beyond that it is made to fill disks
RATIO_FROM = 64 * 1024**2  # bytes unpacked before the ratio is looked at
_SHEET = ("xl/", "word/", "[Content_Types].xml")


class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What is packed in a file."""

    file: Readable
    chunk: int  # bytes to be read at once
    said: int  # bytes that it says to be; who packs it may say anything, and gzip says it of its last 4 GiB only

    def start(self, most: int) -> bytes:
        """Its first bytes, `most` of them if there are so many."""
        found = b""
        while len(found) < most and (chunk := self.file.read(min(self.chunk, most - len(found)))):
            found += chunk
        return found


def is_packed(path: Path) -> bool:
    """Whether the file is one of those that `unpacked` unpacks."""
    with path.open("rb") as file:
        return file.read(4).startswith((GZIP, ZIP, EMPTY_ZIP))


def unpacked(path: Path, into: Path, *, most: int) -> Path:
    """`path` itself, or what is packed in it, unpacked below `into`; at most `most` bytes.

    Raises:
        TooLargeInside: it holds more, or far more than its size says.
        BinaryFile: a zip that is a spreadsheet, or holds no or several files.
        MalformedFile: the archive is damaged, encrypted, or an archive of archives.
        DiskFull: there is no room to unpack it.
    """
    if not is_packed(path):
        return path
    with opened(path) as inside:
        return _copied(inside, path, into, most)


@contextmanager
def opened(path: Path) -> Iterator[Inside]:
    """What is packed in `path`, to be read.

    Raises:
        BinaryFile, MalformedFile: as `unpacked`, also while it is read.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) == GZIP:
                file.seek(max(0, path.stat().st_size - 4))
                (said,) = struct.unpack("<I", file.read(4))
                with gzip.open(path) as inner:
                    yield Inside(file=inner, chunk=CHUNK, said=said)
                return
        with zipfile.ZipFile(path) as archive:
            entry = _only_entry(archive)
            bounded = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            with archive.open(entry) as inner:
                yield Inside(file=inner, chunk=CHUNK if bounded else SMALL_CHUNK, said=entry.file_size)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise MalformedFile(f"The zip archive is damaged ({error}). Pack it again, or upload it unpacked.") from None
    except (OSError, EOFError, zlib.error, LZMAError, struct.error, UnicodeDecodeError, MemoryError) as error:
        # Damage has no number, or that of a place before the beginning of the file; the others are the disk's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise MalformedFile("The archive breaks off or is damaged. Pack it again, or upload it unpacked.") from None


def refuse_archive(first: bytes) -> None:
    """Raises MalformedFile if what was packed begins as an archive does."""
    if first.startswith((GZIP, ZIP)):
        raise MalformedFile("The archive holds another archive. Upload what is inside of it.")


def _only_entry(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    files = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_litter(entry.filename)]
    if any(entry.filename.startswith(_SHEET) for entry in files):
        raise BinaryFile("The file is a spreadsheet. Save it as CSV and upload that.")
    if len(files) != 1:
        raise BinaryFile(f"The zip archive holds {len(files)} files; upload one file at a time, or a zip of one.")
    if files[0].flag_bits & 1:
        raise MalformedFile("The zip archive is encrypted. Upload it without a password.")
    return files[0]


def _is_litter(name: str) -> bool:
    """What macOS packs beside the file."""
    return name.startswith("__MACOSX/") or name.endswith(".DS_Store")


def _copied(inside: Inside, path: Path, into: Path, most: int) -> Path:
    """The bytes of `inside` as a file of ours: the names inside an archive are never used."""
    target, packed, size = into / UNPACKED, path.stat().st_size, 0
    with target.open("wb") as file:
        while chunk := inside.file.read(inside.chunk):
            if not size:
                refuse_archive(chunk)
            size += len(chunk)
            if size > most or (size > RATIO_FROM and size > MOST_RATIO * packed):
                raise TooLargeInside(f"The archive holds far more than its {packed:,} bytes say. Upload it unpacked.")
            if shutil.disk_usage(into).free < KEEP_FREE:
                raise DiskFull("The disk of this Netra is full. Free some space and upload the file again.")
            file.write(chunk)
    return target
