#!/usr/bin/env python3
"""Makes a container image out of plain files:  mkimage.py OUT.tar NAME:TAG ITEM...

  SOURCE:/path          a file; executable if SOURCE is
  link:TARGET:/path     a symbolic link
  dir:/path             an empty directory
  program:SOURCE:/path  a file with the shared libraries that it needs
  entrypoint:WORD       a word of the entry point
  user:ID               who its processes run as
"""
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile


class Layer:
    """A layer of an image, in memory."""

    def __init__(self):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w", format=tarfile.PAX_FORMAT)
        self.seen = set()

    def directories(self, path):
        parts = path.strip("/").split("/")
        for length in range(1, len(parts) + 1):
            directory = "/".join(parts[:length])
            if directory and directory not in self.seen:
                self.seen.add(directory)
                entry = tarfile.TarInfo(directory)
                entry.type = tarfile.DIRTYPE
                entry.mode = 0o1777 if directory == "tmp" else 0o755
                self.tar.addfile(entry)

    def link(self, target, path):
        self.directories(os.path.dirname(path))
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.type = tarfile.SYMTYPE
        entry.linkname = target
        self.tar.addfile(entry)

    def file(self, source, path):
        if path in self.seen:
            return
        self.seen.add(path)
        self.directories(os.path.dirname(path))
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.size = os.path.getsize(source)
        entry.mode = 0o755 if os.access(source, os.X_OK) else 0o644
        with open(source, "rb") as content:
            self.tar.addfile(entry, content)

    def program(self, source, path):
        self.file(source, path)
        listed = subprocess.run(["ldd", source], capture_output=True, text=True, check=True).stdout
        for line in listed.splitlines():
            words = line.split()
            libraries = [word for word in words if word.startswith("/")]
            if libraries:
                # The loader is named by its path, the others are found in the default directories.
                library = libraries[0]
                place = library if "=>" not in words else "/lib/x86_64-linux-gnu/" + words[0]
                self.file(os.path.realpath(library), place)

    def close(self):
        self.tar.close()
        return self.bytes.getvalue()


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    out, name, *items = sys.argv[1:]
    layer, entrypoint, user = Layer(), [], ""
    for item in items:
        kind, _, rest = item.partition(":")
        if kind == "dir":
            layer.directories(rest)
        elif kind == "link":
            layer.link(*rest.split(":", 1))
        elif kind == "program":
            layer.program(*rest.split(":", 1))
        elif kind == "entrypoint":
            entrypoint.append(rest)
        elif kind == "user":
            user = rest
        else:
            layer.file(kind, rest)
    write(out, name, layer.close(), entrypoint, user)


def write(out, name, layer, entrypoint, user):
    digest = hashlib.sha256(layer).hexdigest()
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = json.dumps({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [path], "User": user, "WorkingDir": "/", "Entrypoint": entrypoint},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
    }).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [digest + ".tar"]}]).encode()
    with tarfile.open(out + ".new", "w") as archive:
        for member, content in ((config_name, config), (digest + ".tar", layer), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    os.rename(out + ".new", out)


main()
