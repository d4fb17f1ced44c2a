"""Serves data sets as the Hub does; as a script, it is what loads them from there."""

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_tools import start_script

Files = Mapping[str, bytes]
"""By path in the repository."""


def main() -> None:
    """Build `hub` with each of the options in the arguments, and print what came of it."""
    from segacc.errors import SegaccError
    from segacc.plugins.datasets.hub import HubOptions, build_hub
    from segacc.settings.options import decode

    told = []
    for values in json.loads(sys.argv[1]):
        start = time.monotonic()
        try:
            built = build_hub(decode(HubOptions, values, "--dataset hub"))
            one: dict[str, Any] = {
                "splits": {name: digest(samples) for name, samples in built.splits.items()},
                "names": built.labels.names,
            }
        except SegaccError as error:
            one = {"error": str(error)}
        told.append({**one, "seconds": time.monotonic() - start})
    print(json.dumps(told))


def digest(samples: Any) -> list[list[str]]:
    """Tell the id and the hashes of image and label of each sample."""
    return [[one.id, of_bytes(one.image), of_bytes(one.label)] for one in samples]


def of_bytes(content: bytes) -> str:
    """Return a hash that is the same in every process."""
    return hashlib.sha256(content).hexdigest()


def start_loading(cases: Any, home: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start loading in a process of its own."""
    return start_script(__file__, cases, home, **environment)


def commit(hub_id: str, revision: str) -> str:
    """Return the commit of a branch."""
    return hashlib.sha1(f"{hub_id}@{revision}".encode()).hexdigest()


@contextmanager
def dataset_hub(repositories: Mapping[str, Mapping[str, Files]]) -> Iterator[str]:
    """Serve data sets as the Hub does: their facts, their trees and their files.

    `gated/...` lists its files and gives none without leave, `mute/...` lists them and never
    answers when asked for one, what is not there is a 401.

    Args:
        repositories: by id, and by branch: the files.
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def tell(self, content: Any) -> None:
            self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            parts = [unquote(part) for part in address.path.strip("/").split("/")]
            from_api = parts[0] == "api"
            kind, user, name, *rest = parts[1:] if from_api else parts
            branches = repositories.get(f"{user}/{name}") if kind == "datasets" else None
            if branches is None:
                return self.answer(401, X_Error_Code="RepoNotFound")
            what, wanted, *path = rest if len(rest) > 1 else ("revision", "main")
            found = [one for one in branches if wanted in (one, commit(f"{user}/{name}", one))]
            if not found:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            files, sha = branches[found[0]], commit(f"{user}/{name}", found[0])
            if what == "resolve":
                return self.file(user, files, "/".join(path), sha)
            if what == "tree":
                deep = parse_qs(address.query).get("recursive", ["false"])[0].lower() == "true"
                return self.tree(files, "/".join(path), deep=deep)
            siblings = [{"rfilename": one} for one in files]
            return self.tell({"id": f"{user}/{name}", "sha": sha, "siblings": siblings})

        do_HEAD = do_GET  # noqa: N815

        def file(self, user: str, files: Files, path: str, sha: str) -> None:
            if user == "mute":
                time.sleep(60)
            elif user == "gated":
                self.answer(403, X_Error_Code="GatedRepo")
            elif path not in files:
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            else:
                body, about = files[path], {"X_Repo_Commit": sha}
                about["ETag"] = f'"{of_bytes(body)}"'
                if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
                    first, last = int(found[1]), min(int(found[2] or len(body)), len(body) - 1)
                    about["Content_Range"] = f"bytes {first}-{last}/{len(body)}"
                    self.answer(206, body[first : last + 1], **about)
                else:
                    self.answer(200, body, **about)

        def tree(self, files: Files, folder: str, *, deep: bool) -> None:
            inside = [PurePosixPath(one) for one in files]
            inside = [one for one in inside if PurePosixPath(folder) in one.parents]
            if folder and not inside:
                return self.answer(404, X_Error_Code="EntryNotFound")
            folders = {parent for one in inside for parent in one.parents}
            listed = [
                {"type": "file", "path": str(one), "size": len(files[str(one)]), "oid": "0" * 40}
                for one in inside
            ]
            listed += [
                {"type": "directory", "path": str(one), "size": 0, "oid": "0" * 40}
                for one in sorted(folders)
                if PurePosixPath(folder) in one.parents
            ]
            here = [
                one for one in listed if PurePosixPath(one["path"]).parent == PurePosixPath(folder)
            ]
            return self.tell(listed if deep else here)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
