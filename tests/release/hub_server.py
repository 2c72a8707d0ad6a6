"""A small Hugging Face Hub on the loopback device: repositories, branches, commits and LFS objects, kept in memory.

Implements the requests of huggingface_hub's client for uploads with git LFS and for downloads. Small files are
committed directly; larger ones must come through LFS, and their content is checked against the announced hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

REGULAR_BYTES = 10_000
"""Files up to this size are committed without LFS."""


@dataclass(frozen=True)
class Blob:
    """One file of a branch."""

    content: bytes
    is_lfs: bool

    @property
    def git_id(self) -> str:
        return hashlib.sha1(f"blob {len(self.content)}\0".encode() + self.content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class Repository:
    """Branches with their commits, newest first, and their files."""

    private: bool
    commits: dict[str, list[str]] = field(default_factory=lambda: {"main": ["0" * 40]})
    files: dict[str, dict[str, Blob]] = field(default_factory=lambda: {"main": {}})


class LoopbackHub:
    """The server; a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        """Hash of every received LFS object, once for each time it was received."""
        self.num_commits = 0
        self.refuse_uploads_after: int | None = None
        self.tokens: set[str | None] = set()
        self.lock = threading.Lock()

        class Handler(_Handler):
            hub = self

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def branch(self, repository: str, branch: str) -> dict[str, bytes]:
        """Return the files of a branch; ``repository`` starts with ``datasets/`` if it is one."""
        return {name: blob.content for name, blob in self.repositories[repository].files[branch].items()}


class _Refused(Exception):
    """Status and content of an error response."""


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def _answer(self, handle: Any) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.path_parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        headers: dict[str, str] = {}
        with self.hub.lock:
            self.hub.tokens.add(self.headers.get("Authorization"))
            try:
                status, content = 200, handle(headers)
            except _Refused as refused:
                status, content = refused.args
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(sent)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    def _put(self, headers: dict[str, str]) -> Any:
        oid = self.path_parts[-1]
        limit = self.hub.refuse_uploads_after
        if limit is not None and len(self.hub.uploads) >= limit:
            raise _Refused(403, {"error": "storage is full"})
        assert hashlib.sha256(self.body).hexdigest() == oid, "other bytes arrived than were announced"
        self.hub.objects[oid] = self.body
        self.hub.uploads.append(oid)
        return {}

    def _post(self, headers: dict[str, str]) -> Any:
        parts = self.path_parts
        if parts[-1] == "batch":
            return self._lfs_batch()
        request: dict[str, Any] = json.loads(self.body) if parts[-2:-1] != ["commit"] else {}
        if parts == ["api", "repos", "create"]:
            return self._create(request)
        if parts == ["api", "validate-yaml"]:
            assert request["content"].startswith("---\nlicense: ")
            return {"errors": [], "warnings": []}
        name, repository = self._repository()
        action, branch = parts[4], parts[5]
        if action == "branch":
            return self._create_branch(repository, branch, request["startingPoint"])
        if action == "preupload":
            modes = [(file["path"], "regular" if file["size"] <= REGULAR_BYTES else "lfs") for file in request["files"]]
            return {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]}
        assert action == "commit", self.path
        return self._commit(name, repository, branch)

    def _create(self, request: dict[str, Any]) -> Any:
        prefix = "datasets/" if request.get("type") == "dataset" else ""
        name = f"{prefix}{request['organization']}/{request['name']}"
        if name in self.hub.repositories:
            raise _Refused(409, {"error": "You already created this repo", "url": f"{self.hub.address}/{name}"})
        self.hub.repositories[name] = Repository(private=request.get("visibility") == "private")
        return {"url": f"{self.hub.address}/{name}", "name": name}

    def _create_branch(self, repository: Repository, branch: str, start: str) -> Any:
        if branch in repository.files:
            raise _Refused(409, {"error": "Reference already exists"})
        assert start == repository.commits["main"][-1], "branches start at the first commit"
        repository.commits[branch], repository.files[branch] = [start], {}
        return {}

    def _lfs_batch(self) -> Any:
        request = json.loads(self.body)
        assert request["operation"] == "upload"
        answers = []
        for item in request["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.address}/storage/{item['oid']}"}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def _commit(self, name: str, repository: Repository, branch: str) -> Any:
        files = repository.files[branch]
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = Blob(base64.b64decode(value["content"]), is_lfs=False)
            elif line["key"] == "lfsFile":
                assert value["oid"] in self.hub.objects, "committed before it was uploaded"
                files[value["path"]] = Blob(self.hub.objects[value["oid"]], is_lfs=True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.num_commits += 1
        commit = f"{self.hub.num_commits:040x}"
        repository.commits[branch].insert(0, commit)
        return {"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit}

    def _get(self, headers: dict[str, str]) -> Any:
        parts = self.path_parts
        if "resolve" in parts:
            return self._resolve(headers)
        _, repository = self._repository()
        action, branch = parts[4], parts[5]
        if branch not in repository.files:
            raise _Refused(404, {"error": "Revision Not Found"})
        files = repository.files[branch]
        if action == "commits":
            about = {"title": "", "message": "", "authors": [], "date": "2025-01-01T00:00:00.000Z"}
            return [{"id": commit, **about} for commit in repository.commits[branch]]
        if action == "tree":
            return [_tree_entry(name, blob) for name, blob in sorted(files.items())]
        assert action == "revision", self.path
        return {"id": "repo", "sha": repository.commits[branch][0], "siblings": [{"rfilename": name} for name in files]}

    def _resolve(self, headers: dict[str, str]) -> Any:
        at = self.path_parts.index("resolve")
        repository = self.hub.repositories["/".join(self.path_parts[:at])]
        revision, name = self.path_parts[at + 1], "/".join(self.path_parts[at + 2 :])
        branch = next(b for b, commits in repository.commits.items() if revision == b or revision == commits[0])
        if name not in repository.files[branch]:
            raise _Refused(404, {"error": "Entry not found"})
        blob = repository.files[branch][name]
        headers |= {"ETag": f'"{blob.sha256}"', "X-Repo-Commit": repository.commits[branch][0]}
        return blob.content

    def _repository(self) -> tuple[str, Repository]:
        if len(self.path_parts) < 4:
            raise _Refused(404, {"error": f"{self.path} is unknown"})
        _, kind, organization, name = self.path_parts[:4]
        key = f"{'' if kind == 'models' else f'{kind}/'}{organization}/{name}"
        if key not in self.hub.repositories:
            raise _Refused(404, {"error": "Repository Not Found"})
        return key, self.hub.repositories[key]


def _tree_entry(name: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(blob.content), "oid": blob.git_id}
    if blob.is_lfs:
        # git stores a pointer file, whose id is not that of the content.
        pointer = hashlib.sha1(blob.sha256.encode()).hexdigest()
        entry |= {"oid": pointer, "lfs": {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}}
    return entry
