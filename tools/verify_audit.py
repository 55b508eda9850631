"""Checks an archive of the audit log with libraries by others: `cryptography` verifies who signed the checkpoint, `pymerkle` builds the
tree of RFC 6962 from the entries. Nothing of FlowBridge is used, so that an auditor can do the same.

Usage: verify_audit.py ARCHIVE KEY

KEY is what `flowbridge audit key` printed. Ends with exit code 1 at the first thing that is not as it was signed.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pymerkle import InmemoryTree

WIDTH = 256
FILES = {"matches_csv": "matches.csv", "breaks_csv": "breaks.csv", "camt": "entries.camt.xml"}


def refuse(why: str) -> None:
    sys.exit(f"not as it was signed: {why}")


def open_checkpoint(note: str, key: str) -> tuple[int, bytes]:
    """Size and root of a checkpoint (C2SP tlog-checkpoint) that the key (C2SP signed-note) has signed."""
    name, key_id, encoded = key.split("+", 2)
    public = base64.b64decode(encoded)
    expected = hashlib.sha256(name.encode() + b"\n" + public).digest()[:4]
    if public[0] != 1 or expected.hex() != key_id:
        refuse(f"{key} is no Ed25519 key of a log")
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    for line in signatures.splitlines():
        dash, signer, signature = line.split(" ")
        signature = base64.b64decode(signature)
        if (dash, signer, signature[:4]) == ("—", name, expected):
            try:
                Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature[4:], text.encode())
            except InvalidSignature:
                refuse("the checkpoint's signature")
            origin, size, root = text.splitlines()
            if origin != name:
                refuse(f"the checkpoint is of {origin}")
            return int(size), base64.b64decode(root)
    refuse("the checkpoint is not signed by this key")


def bundle_path(number: int, width: int) -> str:
    """Where a bundle of entries lies (C2SP tlog-tiles)."""
    path = f"{number % 1000:03}"
    while number := number // 1000:
        path = f"x{number % 1000:03}/{path}"
    return f"audit/tile/entries/{path}" + (f".p/{width}" if width < WIDTH else "")


def entries(archive: Path, size: int):
    for first in range(0, size, WIDTH):
        width = min(WIDTH, size - first)
        bundle = (archive / bundle_path(first // WIDTH, width)).read_bytes()
        for _ in range(width):
            length = int.from_bytes(bundle[:2], "big")
            yield bundle[2 : 2 + length]
            bundle = bundle[2 + length :]
        if bundle:
            refuse(f"the bundle from entry {first} on holds more than it should")


def plain(text: str) -> str:
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "-" for letter in text)


def main(archive: Path, key: str) -> None:
    size, root = open_checkpoint((archive / "audit/checkpoint").read_text(), key)
    tree = InmemoryTree(algorithm="sha256")
    reports = 0
    for sequence, leaf in enumerate(entries(archive, size)):
        tree.append_entry(leaf)
        entry = json.loads(leaf)
        # RFC 8785, for what an entry may hold.
        if json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() != leaf:
            refuse(f"entry {sequence} is no canonical JSON")
        public = entry["public"]
        for form, expected in public.get("reports", {}).items():
            name = FILES.get(form, f"report.{plain(form)}")
            file = archive / "reports" / plain(public["day"]) / plain(public["scope"]) / plain(entry["object"]) / name
            if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
                refuse(f"{file} is not the report that entry {sequence} names")
            reports += 1
    if tree.get_root() != root:
        refuse("the entries do not make the root")
    print(f"    {size} entries and {reports} reports are as they were signed, say cryptography and pymerkle")


main(Path(sys.argv[1]), sys.argv[2])
