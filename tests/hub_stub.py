"""A hub in a thread: the few answers of the real one that `vqlabel push`, `pull` and hf:// paths ask for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_token_of_me"


@dataclass
class Repo:
    """A repository: the files of each commit by name, the newest commit last."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({})

    def commit(self, files: dict[str, bytes]) -> str:
        """Add files, or put them in place of others, and get the commit's name."""
        sha = hashlib.sha1(str(len(self.commits)).encode()).hexdigest()
        self.commits[sha] = {**self.files, **files}
        return sha

    @property
    def sha(self) -> str:
        """Name of the newest commit."""
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the newest commit."""
        return self.commits[self.sha] if self.commits else {}


class Hub(ThreadingHTTPServer):
    """repos by name; `asked` is every request, `warn` what is wrong with any card, `before_commit` runs first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.warn = ""
        self.before_commit: Any = lambda: None
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def sent(self) -> list[str]:
        """What could have changed anything."""
        return [line for line in self.asked if line.split()[0] in ("POST", "PUT") and "validate" not in line]


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_any(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            return self.answer(401, {"error": "bad"}, X_Error_Message="Invalid credentials in Authorization header")
        if token is None and self.command in ("POST", "PUT") and "/blobs/" not in self.path:
            return self.answer(401, {"error": "Invalid username or password."})
        for pattern, method in ROUTES:
            found = re.fullmatch(pattern, self.path.partition("?")[0])
            if found:
                return method(self, *found.groups())
        return self.answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def repo(self, name: str) -> Repo | None:
        """The repository, if it is there and this user may see it."""
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and "Authorization" not in self.headers):
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return repo

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        if not name.startswith("me/"):
            return self.answer(403, {"error": "not yours"}, X_Error_Message="not yours")
        there = name in self.server.repos
        if not there:
            self.server.repos[name] = Repo(private=wanted.get("visibility") == "private")
        return self.answer(409 if there else 200, {"url": f"{self.server.url}/datasets/{name}"})

    def info(self, name: str) -> None:
        if repo := self.repo(name):
            self.answer(200, {"id": name, "sha": repo.sha, "private": repo.private})

    def tree(self, name: str) -> None:
        if repo := self.repo(name):
            entries = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in repo.files.items()
            ]
            self.answer(200, entries)

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.repo(name)
        if repo is None:
            return
        sha = repo.sha if revision == "main" else revision
        if sha not in repo.commits:
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif path not in repo.commits[sha]:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        else:
            data = repo.commits[sha][path]
            self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=sha)

    def validate(self) -> None:
        self.answer(200, {"warnings": [{"message": self.server.warn}] if self.server.warn else []})

    def preupload(self, name: str) -> None:
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
        self.answer(200, {"files": [{"path": p, "uploadMode": modes[p], "shouldIgnore": False} for p in paths]})

    def batch(self, name: str) -> None:
        objects = json.loads(self.body)["objects"]
        actions = [{"upload": {"href": f"{self.server.url}/blobs/{each['oid']}"}} for each in objects]
        both = zip(objects, actions, strict=True)
        self.answer(200, {"transfer": "basic", "objects": [{**each, "actions": action} for each, action in both]})

    def blob(self, oid: str) -> None:
        self.server.blobs[oid] = self.body
        self.answer(200)

    def commit(self, name: str) -> None:
        self.server.before_commit()
        repo = self.server.repos[name]
        lines = [json.loads(line) for line in self.body.splitlines()]
        values = {key: [line["value"] for line in lines if line["key"] == key] for key in ("header", "file", "lfsFile")}
        if values["header"][0].get("parentCommit", repo.sha) != repo.sha:
            return self.answer(412, {"error": "A commit has happened since."})
        files = {value["path"]: base64.b64decode(value["content"]) for value in values["file"]}
        files |= {value["path"]: self.server.blobs[value["oid"]] for value in values["lfsFile"]}
        sha = repo.commit(files)
        return self.answer(200, {"commitUrl": f"{self.server.url}/datasets/{name}/commit/{sha}", "commitOid": sha})


NAME = "([^/]+/[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    (r"/api/repos/create", _Handler.create),
    (rf"/api/datasets/{NAME}(?:/revision/main)?", _Handler.info),
    (rf"/api/datasets/{NAME}/tree/main", _Handler.tree),
    (rf"/datasets/{NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (r"/api/validate-yaml", _Handler.validate),
    (rf"/api/datasets/{NAME}/preupload/main", _Handler.preupload),
    (rf"/datasets/{NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"/blobs/(\w+)", _Handler.blob),
    (rf"/api/datasets/{NAME}/commit/main", _Handler.commit),
]
