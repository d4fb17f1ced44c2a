"""Runs segacc.model.hub.choose against a Hub of our making; as a script, it is what runs there."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def main() -> None:
    """Choose for each (given, default id) of the arguments, and print what came of it."""
    from segacc.errors import WeightsError
    from segacc.model.hub import choose

    told = []
    for given, default_id in json.loads(sys.argv[1]):
        start = time.monotonic()
        try:
            source = choose(given, default_id)
            one = {"folder": source.folder, "name": source.name, "warning": source.warning}
        except WeightsError as error:
            one = {"error": str(error)}
        told.append({**one, "seconds": time.monotonic() - start})
    print(json.dumps(told))


def start_choosing(cases: Any, home: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start choosing in a process of its own."""
    return start_script(__file__, cases, home, **environment)


def start_script(
    script: str, cases: Any, home: Path, **environment: str
) -> "subprocess.Popen[str]":
    """Start a script in a process of its own: the Hub's library reads its settings on import."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        and not name.lower().endswith("_proxy")
    }
    return subprocess.Popen(
        [sys.executable, script, json.dumps(cases)],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT), "HF_HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    """Wait for what a script prints; nothing else may have been said."""
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    told: list[dict[str, Any]] = json.loads(out)
    return told


def cache(home: Path, hub_id: str, files: dict[str, bytes]) -> Path:
    """Lay files out as the Hub's library caches them; return the snapshot's folder."""
    place = home / "hub" / ("models--" + hub_id.replace("/", "--"))
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    return snapshot


class Reader(BaseHTTPRequestHandler):
    """Serves `repositories` as the Hub does; see `hub`."""

    repositories: dict[str, dict[str, bytes]]

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].removeprefix("/api/models").strip("/").split("/")
        files = self.repositories.get("/".join(parts[:2]))
        if parts[0] == "down":
            self.answer(503, b"")
        elif parts[0] == "portal":
            self.answer(200, b"<html>Log in to this network</html>")
        elif files is None:
            self.answer(401, b"", X_Error_Code="RepoNotFound")
        elif parts[0] == "mute" and parts[2:3] == ["resolve"]:
            time.sleep(60)
        elif parts[0] == "shut" and parts[2:3] == ["resolve"]:
            self.answer(403, b"")
        elif parts[2:3] == ["resolve"] and parts[4] in files:
            body = files[parts[4]]
            self.answer(200, body, ETag=f'"{hash(body)}"', X_Repo_Commit=COMMIT)
        elif parts[2:3] == ["resolve"]:
            self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        elif parts[2:3] == ["tree"]:
            listed = [
                {"type": "file", "path": name, "size": len(body), "oid": COMMIT}
                for name, body in files.items()
            ]
            self.answer(200, json.dumps(listed).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            told = {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": siblings}
            self.answer(200, json.dumps({**told, **self.about(told["id"])}).encode())

    def about(self, repository: str) -> dict[str, Any]:
        """Return what else is known about a repository."""
        return {}

    def do_HEAD(self) -> None:
        self.do_GET()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of this machine; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@contextmanager
def hub(repositories: dict[str, dict[str, bytes]]) -> Iterator[str]:
    """Serve repositories as the Hub does.

    `down/...` answers 503, `shut/...` lists its files and gives none, `mute/...` lists them and
    never answers when asked for one, what is not there is a 401.
    """
    with serving(type("Handler", (Reader,), {"repositories": repositories})) as address:
        yield address


if __name__ == "__main__":
    main()
