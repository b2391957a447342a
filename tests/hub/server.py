"""A Hugging Face Hub of our own on the loopback, which can be made to fail.

It speaks what `huggingface_hub` needs to create a repository, commit to it,
list it and download from it. Every file is a "regular" one, named by git.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

PIECES = 8  # of a body that comes slowly


def git_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclasses.dataclass
class Fault:
    """What happens to requests for a file, or for the API's paths.

    Args:
        path: end of the request's path.
        status: answered instead of the content.
        cut: bytes of the body after which the connection ends.
        alter: whether the body is of the right length, but not the right one.
        pause: seconds between the pieces that the body comes in.
        meet: a `threading.Barrier` that requests wait at, for each other.
        times: how often, `None` for always.
        method: "GET" leaves HEAD alone.
        headers: sent instead of the right ones.
        content: JSON that is answered instead of the right one.
    """

    path: str
    status: int = 200
    cut: int | None = None
    alter: bool = False
    pause: float = 0
    meet: threading.Barrier | None = None
    times: int | None = None
    method: str | None = None
    headers: dict = dataclasses.field(default_factory=dict)
    content: list | dict | None = None

    def hits(self, method, path):
        if not path.endswith(self.path) or self.method not in (None, method):
            return False
        if self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Hub(http.server.ThreadingHTTPServer):
    """Repositories as lists of commits, each {path: content}.

    Attributes:
        repos: {"organisation/name": [commit, …]}, the last one is `main`.
        faults: list of `Fault`.
        requests: (method, path) of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos, self.faults, self.requests = {}, [], []

    def push(self, name, files):
        """A new commit of exactly these files; returns its id."""
        commits = self.repos.setdefault(name, [{}])
        commits.append(dict(files))
        return self.sha(name, len(commits) - 1)

    def sha(self, name, index):
        return hashlib.sha1(f"{name} {index}".encode()).hexdigest()

    def find(self, name, revision):
        """(id, files) of a revision, `None` where there is none."""
        commits = self.repos[name]
        ids = [self.sha(name, index) for index in range(len(commits))]
        if revision == "main":
            revision = ids[-1]
        if revision not in ids:
            return None
        return revision, commits[ids.index(revision)]


@contextlib.contextmanager
def running():
    """A `Hub` that answers."""
    hub = Hub()
    # A short interval, so that shutting down does not take half a second.
    thread = threading.Thread(
        target=hub.serve_forever, args=(0.01,), daemon=True
    )
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Say nothing."""

    def do(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length)
        faults = [f for f in self.server.faults if f.hits(self.command, path)]
        self.fault = faults[0] if faults else Fault("")
        if self.fault.meet is not None:
            self.fault.meet.wait(60)
        if self.fault.status != 200:
            return self.answer(self.fault.status, {"error": "as told"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(sent))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name = (api or file)[1] if api or file else None
        if name not in self.server.repos:
            return self.missing("RepoNotFound")
        if file:
            return self.file(name, file[2], file[3])
        action, _, revision = (api[2] or "revision/main").partition("/")
        found = self.server.find(name, revision)
        if found is None:
            return self.missing("RevisionNotFound")
        return getattr(self, action)(name, *found, sent)

    do_GET = do_HEAD = do_POST = do

    def answer(self, status, content, **headers):
        headers |= self.fault.headers
        if self.fault.content is not None:
            content = self.fault.content
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        whole = len(content)
        if self.fault.alter:
            content = bytes(255 - byte for byte in content)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(whole))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault.cut is not None:
            content = content[: self.fault.cut]
            self.close_connection = True
        if not self.fault.pause:
            self.wfile.write(content)
            return
        step = max(1, len(content) // PIECES)
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            # Not `time.sleep`, which the client's tests do without.
            threading.Event().wait(self.fault.pause)

    def missing(self, code):
        self.answer(404, {"error": code}, X_Error_Code=code)

    def create(self, wanted):
        owner = wanted.get("organization") or "someone"
        name = f"{owner}/{wanted['name']}"
        exists = name in self.server.repos
        self.server.repos.setdefault(name, [{}])
        url = {"url": f"{self.server.url}/{name}", "name": name}
        self.answer(409 if exists else 200, url)

    def revision(self, name, sha, files, sent):
        siblings = [{"rfilename": path} for path in files]
        self.answer(200, {"id": name, "sha": sha, "siblings": siblings})

    def tree(self, name, sha, files, sent):
        rows = [
            {"type": "file", "path": p, "size": len(c), "oid": git_id(c)}
            for p, c in files.items()
        ]
        self.answer(200, rows)

    def preupload(self, name, sha, files, sent):
        rows = [
            {
                "path": file["path"],
                "uploadMode": "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(sent)["files"]
        ]
        self.answer(200, {"files": rows})

    def commit(self, name, sha, files, sent):
        files = dict(files)
        for line in sent.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if value.get("parentCommit") not in (None, sha):
                return self.answer(412, {"error": "not the last commit"})
            if operation["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = content
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.server.push(name, files)
        url = f"{self.server.url}/{name}/commit/{sha}"
        return self.answer(200, {"commitOid": sha, "commitUrl": url})

    def file(self, name, revision, path):
        found = self.server.find(name, revision)
        if found is None:
            return self.missing("RevisionNotFound")
        sha, files = found
        if path not in files:
            return self.missing("EntryNotFound")
        content = files[path]
        named = {"X_Repo_Commit": sha, "ETag": f'"{git_id(content)}"'}
        asked = re.fullmatch(
            r"bytes=(\d+)-", self.headers.get("Range") or "bytes=none"
        )
        if asked is None:
            return self.answer(200, content, **named)
        start = int(asked[1])
        named["Content_Range"] = (
            f"bytes {start}-{len(content) - 1}/{len(content)}"
        )
        return self.answer(206, content[start:], **named)
