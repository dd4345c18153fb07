#!/usr/bin/env python3
"""Unpack a wheel with its files' permissions: unpack_wheel.py WHEEL DIRECTORY

The directory appears complete or not at all, and stays as it is if it exists already.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import zipfile


def unpack(wheel, directory):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = archive.extract(entry, directory)
            mode = entry.external_attr >> 16 & 0o777
            if not entry.is_dir() and mode:
                os.chmod(path, mode | 0o644)


def main(wheel, directory):
    os.umask(0o022)
    target = pathlib.Path(directory)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = tempfile.mkdtemp(prefix="unpack-", dir=target.parent)
    try:
        os.chmod(draft, 0o755)
        unpack(wheel, draft)
        os.rename(draft, target)
    except OSError:
        if not target.exists():  # somebody else was quicker: then theirs is as good
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
