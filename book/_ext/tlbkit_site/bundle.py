"""The package as one archive that the page's Python imports."""

import hashlib
import io
import zipfile
from pathlib import Path

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""One date for every member: the same sources always give the same bytes."""


def sources(package: Path) -> list[Path]:
    """Return what of *package* runs in a page, or is read there, in a fixed order."""
    return sorted(
        path
        for kind in ("*.py", "*.litmus")
        for path in package.rglob(kind)
        if "tests" not in path.relative_to(package).parts
    )


def bundle(package: Path) -> bytes:
    """Return *package* as a zip archive without its tests."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sources(package):
            name = path.relative_to(package.parent).as_posix()
            member = zipfile.ZipInfo(name, date_time=_EPOCH)
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, path.read_bytes())
    return buffer.getvalue()


def fingerprint(*contents: bytes) -> str:
    """Return a short name for *contents* that changes whenever they do."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:12]
