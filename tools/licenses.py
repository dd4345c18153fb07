#!/usr/bin/env python3
"""licenses.py MAJOR: prints the licenses of all crates that are linked into the library, from their sources in cargo's
registry. Where a crate offers the MIT license among others, that one applies. The same Cargo.lock gives the same output."""

import json
import re
import subprocess
import sys
from pathlib import Path

MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software
is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES
OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR
IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
LICENSE_FILE = re.compile(r"(un)?licen[cs]e|copying|copyright|notice", re.IGNORECASE)
OTHER_CHOICE = re.compile(r"apache|unlicense|bsd|copying", re.IGNORECASE)


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments, "--locked"], check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(features):
    """Name and version of each package in the library; build scripts and procedural macros are not in it."""
    tree = cargo("tree", "--package", "distillvq", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}",
                 *features)
    return {tuple(line.split()[:2]) for line in tree.splitlines() if line}


def texts(package):
    """The license texts of a package."""
    folder = Path(package["manifest_path"]).parent
    files = [entry for path in folder.iterdir() if LICENSE_FILE.match(path.name)
             for entry in (path.iterdir() if path.is_dir() else [path])]
    if "MIT" in re.split(r"\W+", package["license"]):
        files = [path for path in files if not OTHER_CHOICE.search(path.name)]
    if files:
        return sorted(path.read_text(encoding="utf-8").strip() for path in files)
    if "MIT" not in package["license"]:
        sys.exit(f"licenses.py: {package['name']} has no license file")
    return ["Copyright (c) " + ", ".join(package["authors"]) + "\n\n" + MIT.strip()]


def main():
    features = ["--no-default-features", "--features", f"pg{sys.argv[1]}"]
    members = {}
    names = linked(features)
    for package in json.loads(cargo("metadata", "--format-version", "1", *features))["packages"]:
        if package["source"] and (package["name"], "v" + package["version"]) in names:
            title = f"{package['name']} {package['version']} ({package['license']})"
            for text in texts(package):
                words = " ".join(text.split())
                members.setdefault(words, (text, []))[1].append(title)
    standard = "Copyright (c) The Rust Project Contributors\n\n" + MIT.strip()
    members[standard] = (standard, ["the Rust standard library (MIT OR Apache-2.0)"])
    print("The library distillvq.so contains code of these projects, under the licenses that follow their names.")
    for text, titles in sorted(members.values(), key=lambda entry: sorted(entry[1])):
        print("\n" + "-" * 80)
        print("\n".join(sorted(titles)))
        print("\n" + text)


main()
