"""What the tests of fetching share: images made here byte by byte, Debian's registry, and servers that lie.

Everything listens on loopback, on a port that the kernel chooses.
"""
import atexit
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import urllib.parse

import harness
import ports
import tap

harness.PARTS.update({
    "libexec/postern/postern-build": "frontend/imagebuild/postern-build",
    "libexec/postern/postern-transfer": "frontend/transfer/postern-transfer",
    "libexec/postern/postern-keys": "frontend/keys/postern-keys",
})

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def dump(document):
    return json.dumps(document).encode()


# ---------------------------------------------------------------------------------------- images

def tar_of(files):
    """A layer: path -> text, bytes, None for a directory, ("link", target), ("hole", bytes)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.mtime = 1700000000
            entry.mode = 0o755
            if content is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif isinstance(content, tuple):
                entry.type, entry.linkname = tarfile.SYMTYPE, content[1]
                tar.addfile(entry)
            else:
                data = content.encode() if isinstance(content, str) else content
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def base_files(**extra):
    """A root with busybox that can run."""
    with open(harness.BUSYBOX, "rb") as file:
        busybox = file.read()
    files = {"bin": None, "dev": None, "proc": None, "sys": None, "tmp": None, "etc": None, "root": None, "home": None,
             "bin/busybox": busybox, "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n"}
    for applet in ("sh", "cat", "ls", "echo", "true", "env", "sleep", "id"):
        files["bin/" + applet] = ("link", "busybox")
    files.update(extra)
    return files


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


COMPRESSION = {"": lambda data: data, "+gzip": lambda data: gzip.compress(data, 6, mtime=0), "+zstd": zstd}


class Image:
    """Config, layers and manifest of one image, as bytes by digest."""

    def __init__(self, layers, compression="+gzip", architecture="amd64", config=None, annotations=None):
        self.blobs = {}
        described, diff_ids = [], []
        for index, files in enumerate(layers):
            plain = files if isinstance(files, bytes) else tar_of(files)
            kind = compression[index] if isinstance(compression, (list, tuple)) else compression
            described.append(self.add(COMPRESSION[kind](plain), OCI_LAYER + kind))
            diff_ids.append(digest(plain))
        document = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
                    "config": {"Env": ["PATH=/bin", "GREETING=hello"], "Cmd": ["/bin/sh"], **(config or {})}}
        self.layers = described
        self.config = self.add(dump(document), OCI_CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": self.config, "layers": described}
        if annotations:
            manifest["annotations"] = annotations
        self.manifest = dump(manifest)
        self.architecture = architecture

    def add(self, data, media_type):
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    @property
    def digest(self):
        return digest(self.manifest)

    def layout(self, path, tag="latest"):
        """An OCI image layout on disk."""
        os.makedirs(path + "/blobs/sha256")
        for name, data in {**self.blobs, self.digest: self.manifest}.items():
            with open(f"{path}/blobs/sha256/{name[7:]}", "wb") as file:
                file.write(data)
        with open(path + "/oci-layout", "w") as file:
            file.write('{"imageLayoutVersion":"1.0.0"}')
        with open(path + "/index.json", "w") as file:
            json.dump({"schemaVersion": 2, "manifests": [{
                "mediaType": OCI_MANIFEST, "digest": self.digest, "size": len(self.manifest),
                "annotations": {"org.opencontainers.image.ref.name": tag}}]}, file)
        subprocess.run(["chmod", "-R", "a+rX", path], check=True)
        return path


def index_of(images, extra=()):
    """An image index over (image, platform) pairs."""
    entries = [{"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(image.manifest), "platform": platform}
               for image, platform in images]
    return dump({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries + list(extra)})


# --------------------------------------------------------------------------------------- servers

def certificate(directory, name="127.0.0.1"):
    """A self-signed certificate for 127.0.0.1; paths of certificate and key."""
    os.makedirs(directory, exist_ok=True)
    cert, key = directory + "/server.crt", directory + "/server.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
                    "-subj", "/CN=test", "-addext", f"subjectAltName=IP:{name},DNS:localhost"],
                   check=True, capture_output=True)
    return cert, key


class DockerRegistry:
    """Debian's docker-registry, on a port of its own."""

    def __init__(self, top, name, tls=None, htpasswd=None, token=None):
        self.port, = ports.free()
        self.host = f"127.0.0.1:{self.port}"
        place = f"{top}/{name}"
        os.makedirs(place)
        http_part = f"  addr: 127.0.0.1:{self.port}\n"
        if tls:
            http_part += f"  tls:\n    certificate: {tls[0]}\n    key: {tls[1]}\n"
        text = (f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {place}/data\n"
                f"  delete:\n    enabled: true\nhttp:\n{http_part}")
        if htpasswd:
            text += f"auth:\n  htpasswd:\n    realm: test\n    path: {htpasswd}\n"
        if token:
            text += ("auth:\n  token:\n    realm: {realm}\n    service: test\n    issuer: {issuer}\n"
                     "    rootcertbundle: {bundle}\n").format(**token)
        with open(place + "/config.yml", "w") as file:
            file.write(text)
        self.log = open(place + "/log", "w")
        self.process = subprocess.Popen(["docker-registry", "serve", place + "/config.yml"], stdout=self.log,
                                        stderr=self.log, start_new_session=True)
        atexit.register(self.stop)
        tap.wait_until(lambda: ports.is_open(self.port) or self.process.poll() is not None, f"nothing listens on port {self.port}")
        assert self.process.poll() is None, f"the registry has ended: see {place}/log"

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def put(self, source, name, *options, tls=False, credentials=None):
        """With skopeo: what is stored is what others write."""
        words = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", *options]
        if credentials:
            words.append("--dest-creds=" + credentials)
        subprocess.run([*words, source, f"docker://{self.host}/{name}"], check=True, capture_output=True,
                       env={**os.environ, "HOME": "/nonexistent"})


class Server:
    """An HTTP server whose answers a test decides: `handler(request)` gets the BaseHTTPRequestHandler."""

    def __init__(self, handler, tls=None):
        outer = self
        self.requests = []  # (method, path, headers)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def reply(self, status=200, body=b"", headers=None, length=None):
                body = body.encode() if isinstance(body, str) else body
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                if length is None or length >= 0:
                    self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def answer(self):
                outer.requests.append((self.command, self.path, dict(self.headers.items())))
                size = int(self.headers.get("Content-Length") or 0)
                self.body = self.rfile.read(size) if size else b""
                try:
                    handler(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # as many clients as a test has

            def handle_error(self, *_):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        if tls:
            import ssl
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        atexit.register(self.stop)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def asked(self, part):
        return [request for request in self.requests if part in request[1]]


class FakeRegistry(Server):
    """The pull half of a registry over a dict, with a hook that may answer first.

    `hook(request, kind, name)` returns True if it has answered; kind is "ping", "manifest" or "blob".
    """

    def __init__(self, hook=None, tls=None):
        self.manifests = {}  # tag or digest -> (media type, bytes)
        self.blobs = {}
        self.hook = hook
        super().__init__(self.serve, tls)

    def add(self, image, tag="latest", media_type=OCI_MANIFEST):
        self.blobs.update(image.blobs)
        self.manifests[tag] = self.manifests[image.digest] = (media_type, image.manifest)

    def add_bytes(self, tag, media_type, data):
        self.manifests[tag] = self.manifests[digest(data)] = (media_type, data)

    def serve(self, request):
        path = request.path.split("?")[0]
        kind, name = ("ping", "") if path == "/v2/" else ("blob" if "/blobs/" in path else "manifest", path.rsplit("/", 1)[-1])
        if self.hook and self.hook(request, kind, name):
            return
        if kind == "ping":
            request.reply(200, "{}")
        elif kind == "manifest" and name in self.manifests:
            media_type, data = self.manifests[name]
            request.reply(200, data, {"Content-Type": media_type, "Docker-Content-Digest": digest(data)})
        elif kind == "blob" and name in self.blobs:
            self.send_blob(request, self.blobs[name])
        else:
            request.reply(404, dump({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}))

    @staticmethod
    def send_blob(request, data):
        wanted = request.headers.get("Range")
        if wanted:
            start = int(wanted.split("=")[1].split("-")[0])
            request.reply(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
        else:
            request.reply(200, data, {"Content-Type": "application/octet-stream"})


class LibraryServer(Server):
    """A library of SIF images, written from the protocol, not from our client. Simplified: one user, one quota, no OCI
    registry behind it, uploads go to a path of the same server that stands for storage.
    """

    TOKEN = "t" * 250

    def __init__(self):
        self.images = {}     # (path, tag or hash, arch) -> object
        self.files = {}      # id -> bytes
        self.names = {}      # "entities/e" -> id
        self.hook = None
        super().__init__(self.serve)

    def data(self, request, value, status=200):
        request.reply(status, json.dumps({"data": value}), {"Content-Type": "application/json"})

    def missing(self, request):
        request.reply(404, json.dumps({"error": {"code": 404, "message": "not found"}}))

    def add(self, path, tag, data, arch="amd64"):
        name = "sha256." + hashlib.sha256(data).hexdigest()
        ident = str(len(self.files) + 1)
        self.files[ident] = data
        entry = {"id": ident, "hash": name, "size": len(data), "uploaded": True}
        for key in (tag, name):
            self.images[(path, key, arch)] = entry

    def serve(self, request):
        url = urllib.parse.urlsplit(request.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        path = url.path
        if self.hook and self.hook(request, path):
            return
        if path == "/assets/config/config.prod.json":
            base = f"http://{self.host}"
            request.reply(200, json.dumps({"libraryAPI": {"uri": base + "/library"}, "tokenAPI": {"uri": base + "/token"},
                                           "keystoreAPI": {"uri": base + "/keys"}}))
        elif path == "/token/v1/token-status":
            request.reply(200 if request.headers.get("Authorization") == "Bearer " + self.TOKEN else 404, "{}")
        elif path.endswith("/version"):
            self.data(request, {"version": "1.2.3", "apiVersion": "2.0.0-alpha.2"})
        elif path.startswith("/library/"):
            self.library(request, path[len("/library/"):], query)
        elif path.startswith("/storage/"):
            if request.command == "PUT":
                self.files[path.split("/")[2]] = request.body
                request.reply(200, "", {"ETag": '"etag"'})
            else:
                FakeRegistry.send_blob(request, self.files[path.split("/")[2]])
        else:
            self.missing(request)

    def library(self, request, path, query):
        kind = path.split("/", 1)[0] + "/" + path.split("/")[1]
        rest = "/".join(path.split("/")[2:])
        if kind in ("v1/images", "v1/imagefile") and ":" in rest:
            name, tag = rest.rsplit(":", 1)
            image = self.images.get((name, tag, query.get("arch")))
            if image is None:
                self.missing(request)
            elif request.command == "DELETE":
                del self.images[(name, tag, query["arch"])]
                self.data(request, {})
            elif kind == "v1/images":
                self.data(request, image)
            else:
                request.reply(303, "", {"Location": f"http://{self.host}/storage/{image['id']}?signature=x"})
        elif kind in ("v1/entities", "v1/collections", "v1/containers"):
            if request.command == "POST":
                body = json.loads(request.body)
                parent = body.get("entity") or body.get("collection") or ""
                ident = f"{parent}.{body['name']}" if parent else body["name"]
                self.names[kind + "/" + ident.replace(".", "/")] = ident
                self.data(request, {"id": ident}, 201)
            elif kind + "/" + rest in self.names:
                self.data(request, {"id": self.names[kind + "/" + rest]})
            else:
                self.missing(request)
        elif path == "v1/images" and request.command == "POST":
            body = json.loads(request.body)
            entry = {"id": "new", "hash": body["hash"], "size": 0, "uploaded": False, "container": body["container"]}
            self.pending = entry
            self.data(request, entry, 201)
        elif path == "v2/imagefile/new" and request.command == "POST":
            self.announced = json.loads(request.body)
            self.data(request, {"uploadURL": f"http://{self.host}/storage/new?signature=x"})
        elif path == "v2/imagefile/new/_complete":
            self.data(request, {"quota": {"quotaTotal": 1000000000, "quotaUsage": 512000000}, "containerUrl": "library/e/c/n"})
        elif kind == "v2/tags":
            body = json.loads(request.body)
            name = rest.replace(".", "/")
            self.images[(name, body["Tag"], body["Arch"])] = {**self.pending, "uploaded": True, "size": len(self.files["new"])}
            self.data(request, {})
        elif kind == "v1/search":
            self.data(request, {"image": [{"entityName": "e", "collectionName": "c", "containerName": "found", "tags": ["1", "2"],
                                           "description": "a thing\x1b[2J\n\tlibrary://forged", "fingerprints": ["AB"]}] if query["value"] == "thing" else []})
        else:
            self.missing(request)


def proxy(log):
    """A forward proxy for plain HTTP; `log` gets the URLs."""

    def serve(request):
        import urllib.request
        log.append(request.path)
        outgoing = urllib.request.Request(request.path, method=request.command)
        for name in ("Accept", "Range", "Authorization"):
            if request.headers.get(name):
                outgoing.add_header(name, request.headers[name])
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(outgoing) as answer:
                body = answer.read()
                request.reply(answer.status, body, {name: value for name, value in answer.headers.items()
                                                    if name.lower() in ("content-type", "docker-content-digest", "content-range")},
                              length=int(answer.headers.get("Content-Length", len(body))))
        except urllib.error.HTTPError as error:
            request.reply(error.code, error.read())

    return Server(serve)


def need(*programs):
    for program in programs:
        if shutil.which(program) is None:
            harness.skip(f"needs {program}")
