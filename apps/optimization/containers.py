"""Files that come packed: gzip, and a zip with one file in it, unpacked as they are read and never beyond a bound."""

import gzip
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from apps.optimization.limits import KEEP_FREE, DiskFull
from apps.optimization.readers import BinaryFile, MalformedFile, TooLargeInside

GZIP, ZIP, EMPTY_ZIP = b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06"
CHUNK = 1024**2
UNPACKED = "unpacked"  # the name of what was unpacked
MOST_RATIO = 200  # text packs to a twentieth, a log of repeats to a hundredth; beyond that it is made to fill disks
RATIO_FROM = 64 * 1024**2  # bytes unpacked before the ratio is looked at
_SHEET = ("xl/", "word/", "[Content_Types].xml")


class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes: ...


def unpacked(path: Path, into: Path, *, most: int) -> Path:
    """`path` itself, or what is packed in it, unpacked below `into`; at most `most` bytes.

    Raises:
        TooLargeInside: it holds more, or far more than its size says.
        BinaryFile: a zip that is a spreadsheet, or holds no or several files.
        MalformedFile: the archive is damaged, encrypted, or an archive of archives.
        DiskFull: there is no room to unpack it.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(GZIP):
        with gzip.open(path) as inner:
            return _copied(inner, path, into, most)
    if start in (ZIP, EMPTY_ZIP):
        return _unzipped(path, into, most)
    return path


def _unzipped(path: Path, into: Path, most: int) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            files = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_litter(entry.filename)]
            if any(entry.filename.startswith(_SHEET) for entry in files):
                raise BinaryFile("The file is a spreadsheet. Save it as CSV and upload that.")
            if len(files) != 1:
                raise BinaryFile(
                    f"The zip archive holds {len(files)} files; upload one file at a time, or a zip of one."
                )
            if files[0].flag_bits & 1:
                raise MalformedFile("The zip archive is encrypted. Upload it without a password.")
            with archive.open(files[0]) as inner:
                return _copied(inner, path, into, most)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise MalformedFile(f"The zip archive is damaged ({error}). Pack it again, or upload it unpacked.") from None


def _is_litter(name: str) -> bool:
    """What macOS packs beside the file."""
    return name.startswith("__MACOSX/") or name.endswith(".DS_Store")


def _copied(inner: Readable, path: Path, into: Path, most: int) -> Path:
    """The bytes of `inner` as a file of ours: the names inside an archive are never used."""
    target, packed, size = into / UNPACKED, path.stat().st_size, 0
    try:
        with target.open("wb") as file:
            while chunk := inner.read(CHUNK):
                size += len(chunk)
                if size > most or (size > RATIO_FROM and size > MOST_RATIO * packed):
                    raise TooLargeInside(
                        f"The archive holds far more than its {packed:,} bytes say. Upload it unpacked."
                    )
                if shutil.disk_usage(into).free < KEEP_FREE:
                    raise DiskFull("The disk of this Netra is full. Free some space and upload the file again.")
                file.write(chunk)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise MalformedFile("The archive breaks off or is damaged. Pack it again, or upload it unpacked.") from None
    with target.open("rb") as file:
        if file.read(4).startswith((GZIP, ZIP)):
            raise MalformedFile("The archive holds another archive. Upload what is inside of it.")
    return target
