"""Model files as an attacker would write them; each that works leaves a file behind."""

import io
import json
import os
import zipfile


class Trap:
    """A pickle that makes a file when it is opened."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mknod, (self.marker,)


def rewritten(source, target, *, change=None, more=None, drop=(), compress=zipfile.ZIP_STORED):
    """Copy an archive, and change its members on the way.

    Args:
        source: of `torch.save` or `torch.export.save`.
        target: to write.
        change: by the end of a member's name: a function of its bytes.
        more: members to add, by their names below the root.
        drop: ends of names that are left out.
        compress: how members are stored.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            data = old.read(name)
            for ending, edit in (change or {}).items():
                if name.endswith(ending):
                    data = edit(data)
            if not name.endswith(tuple(drop)):
                new.writestr(name, data)
        for name, data in (more or {}).items():
            new.writestr(f"{root}/{name}", data)
    return target


def edit_json(edit):
    """Make a change of bytes from a change of what they say."""

    def change(data):
        content = json.loads(data)
        edit(content)
        return json.dumps(content).encode()

    return change


def pickled(value):
    """What ``torch.save`` writes."""
    import torch

    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
