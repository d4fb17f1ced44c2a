"""A Hub of our making that takes uploads: repositories, large files, commits."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hub_tools import Reader, serving

TOKEN = "hf_" + "thisIsTheSecretOfTheTests"
USER = "alice"
LARGE = (".safetensors", ".png")
"""Files that go through the store of large files."""


@dataclass
class Hub:
    """The state of the server, and how it behaves."""

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Large files by their SHA-256."""
    commits: list[dict[str, Any]] = field(default_factory=list)
    """Of each commit: repository, message, and the names of its files."""
    received: int = 0
    """Bytes of large files that arrived, of cut ones too."""
    status: dict[str, int] = field(default_factory=dict)
    """What to answer in place of the usual, by the beginning of a path."""
    hold: str = ""
    """A large file of this SHA-256 is read by half and no further."""
    held: threading.Event = field(default_factory=threading.Event)
    """Set once that is the case."""
    page: bytes = b""
    """A page of HTML that answers everything, as that of a hotel does."""
    open: threading.Event = field(default_factory=threading.Event)
    """Large files wait for it."""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, body: bytes) -> None:
        """Add to the bytes that arrived, which files do at the same time."""
        with self.lock:
            self.received += len(body)


class Writer(Reader):
    """Takes uploads as huggingface_hub sends them without Xet, for the state `hub`."""

    hub: Hub

    def about(self, repository: str) -> dict[str, Any]:
        return {"private": self.hub.private.get(repository, False)}

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def tell(self, content: Any) -> None:
        self.answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def refused(self) -> bool:
        """Answer what is not the usual; whoever asks without the token gets 401."""
        self.hub.asked.append(f"{self.command} {self.path}")
        wrong = [code for start, code in self.hub.status.items() if self.path.startswith(start)]
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.hub.page:
            self.answer(200, self.hub.page, Content_Type="text/html")
        elif wrong:
            self.answer(wrong[0], b"", X_Error_Message="no write access")
        elif not known and self.command == "POST":
            self.answer(401, b"")
        return bool(self.hub.page or wrong or (not known and self.command == "POST"))

    def do_GET(self) -> None:  # noqa: N802
        if self.refused():
            return
        if self.path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self.tell({"name": USER, "type": "user"}) if known else self.answer(401, b"")
            return
        super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        body = self.body()
        if self.refused():
            return
        asked, hub = self.path.partition("?")[0], self.hub
        if asked == "/api/repos/create":
            self.create(json.loads(body))
        elif asked == "/api/validate-yaml":
            self.tell({"warnings": [], "errors": []})
        elif "/preupload/" in asked:
            names = [one["path"] for one in json.loads(body)["files"]]
            mode = {True: "lfs", False: "regular"}
            files = [
                {"path": name, "uploadMode": mode[name.endswith(LARGE)], "shouldIgnore": False}
                for name in names
            ]
            repository = asked.removeprefix("/api/models/").partition("/preupload/")[0]
            there = hub.repositories[repository]
            self.tell({"files": [{**one, "oid": oid(one, there)} for one in files]})
        elif asked.endswith("/info/lfs/objects/batch"):
            self.tell(
                {
                    "transfer": "basic",
                    "objects": list(map(self.action, json.loads(body)["objects"])),
                }
            )
        elif asked == "/verify":
            known = hub.blobs.get(json.loads(body)["oid"])
            ok = known is not None and len(known) == json.loads(body)["size"]
            self.answer(200 if ok else 404, b"{}")
        elif "/commit/" in asked:
            self.commit(asked.removeprefix("/api/models/").partition("/commit/")[0], body)
        else:
            self.answer(404, b"")

    def create(self, given: dict[str, Any]) -> None:
        name = f"{given.get('organization') or USER}/{given['name']}"
        if name in self.hub.repositories:
            told = {"error": "it exists", "url": f"{self.hub.address}/{name}"}
            self.answer(409, json.dumps(told).encode())
            return
        self.hub.repositories[name] = {}
        self.hub.private[name] = given.get("visibility") == "private" or given.get("private", False)
        self.tell({"url": f"{self.hub.address}/{name}", "name": name})

    def action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.hub.blobs:
            return wanted  # nothing to do: it is there
        signed = f"{self.hub.address}/store/{wanted['oid']}?X-Amz-Signature=0123456789abcdef"
        verify = {"href": f"{self.hub.address}/verify"}
        return {**wanted, "actions": {"upload": {"href": signed}, "verify": verify}}

    def do_PUT(self) -> None:  # noqa: N802
        name = self.path.partition("?")[0].removeprefix("/store/")
        if name == self.hub.hold:
            size = int(self.headers["Content-Length"])
            self.hub.count(self.rfile.read(size // 2))
            self.hub.held.set()
            self.hub.open.wait(180)
            return
        body = self.body()
        self.hub.count(body)
        self.hub.open.wait(180)
        assert hashlib.sha256(body).hexdigest() == name
        self.hub.blobs[name] = body
        self.answer(200, b"")

    def commit(self, repository: str, body: bytes) -> None:
        files: dict[str, bytes] = {}
        message = ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        self.hub.repositories[repository] |= files
        self.hub.commits.append({"repo": repository, "message": message, "files": sorted(files)})
        url = f"{self.hub.address}/{repository}/commit/{'0' * 40}"
        self.tell({"commitUrl": url, "commitOid": "0" * 40, "hookOutput": ""})


def oid(file: dict[str, Any], there: dict[str, bytes]) -> str | None:
    """Return the Hub's name of the content that a file has now; None for a new file."""
    content = there.get(file["path"])
    if content is None:
        return None
    if file["uploadMode"] == "lfs":
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def writable_hub(**behaviour: Any) -> Iterator[Hub]:
    """Start the server; yield its state."""
    hub = Hub(**behaviour)
    hub.open.set()
    handler = type("Handler", (Writer,), {"hub": hub, "repositories": hub.repositories})
    with serving(handler) as address:
        hub.address = address
        yield hub


def logged_in(hub: Hub, home: Any, **more: str) -> dict[str, str]:
    """Return the environment of a user of this Hub who is logged in."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "token").write_text(TOKEN)
    return {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        **more,
    }
