#!/usr/bin/env python3
"""Credentials, sending, libraries and remotes, as an ordinary user: Debian's docker-registry with basic authentication, a
token server and a library API server written here. Prints TAP.
"""
import base64
import hashlib
import json
import os
import shutil
import subprocess
import urllib.parse

import harness
import registry_world as world
from harness import Bench

world.need("docker-registry", "skopeo", "htpasswd")
bench = Bench()
SMALL = world.Image([world.base_files(**{"say": "small\n"})])
layout = SMALL.layout(bench.top + "/layout")
HTPASSWD = bench.top + "/htpasswd"
subprocess.run(["htpasswd", "-Bbc", HTPASSWD, "user", "secret word"], check=True, capture_output=True)
basic = world.DockerRegistry(bench.top, "basic", htpasswd=HTPASSWD)
basic.put(f"oci:{layout}:latest", "private/image:1", credentials="user:secret word")
plain = world.DockerRegistry(bench.top, "plain")


def env_of(bench, **more):
    """A home of its own: no credentials, no cache, no remotes."""
    home = os.path.join(bench.work, "home")
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(home)
    os.chown(home, bench.user.uid, bench.user.gid)
    return {"HOME": home, **more}


def read(path):
    with open(path) as file:
        return file.read()


def sif(bench, name="image.sif"):
    path = os.path.join(bench.work, name)
    if not os.path.exists(path):
        bench.run("build", path, f"oci:{layout}:latest").ok()
    return path


def target_of(bench, name="out.sif"):
    path = os.path.join(bench.work, name)
    if os.path.exists(path):
        os.remove(path)
    return path


# ---------------------------------------------------------------------------------- credentials

def login_and_out(bench):
    """registry login checks and keeps name and password in a file of mode 0600; logout takes them away"""
    env = env_of(bench)
    uri = f"docker://{basic.host}/private/image:1"
    bench.run("pull", target_of(bench), uri, env=env).fails(255, "401", "log in")
    bench.run("registry", "login", "-u", "user", "--password-stdin", f"docker://{basic.host}", env=env,
              stdin="wrong\n").fails(255, "unauthorized")
    assert not os.path.exists(env["HOME"] + "/.docker/config.json")
    done = bench.run("registry", "login", "-u", "user", "--password-stdin", f"docker://{basic.host}", env=env, stdin="secret word\n").ok()
    path = env["HOME"] + "/.docker/config.json"
    assert f"Token stored in {path}" in done.err and "secret word" not in done.err, done
    assert os.stat(path).st_mode & 0o777 == 0o600
    document = json.loads(read(path))
    assert base64.b64decode(document["auths"][basic.host]["auth"]) == b"user:secret word"
    remotes = env["HOME"] + "/.postern/remote.yaml"
    assert os.stat(remotes).st_mode & 0o777 == 0o600 and "secret" not in read(remotes)
    done = bench.run("registry", "list", env=env).ok()
    assert f"docker://{basic.host}" in done.out and done.lines[1].split() == ["URI", "SECURE?"], done
    target = target_of(bench)
    bench.run("pull", target, uri, env=env).ok()
    bench.run("exec", target, "cat", "/say").prints("small\n")
    # What the file holds besides stays.
    document["other"] = {"kept": [1, 2]}
    with open(path, "w") as file:
        json.dump(document, file)
    done = bench.run("registry", "logout", f"docker://{basic.host}", env=env).ok()
    assert "Token removed from" in done.err and "Logout succeeded" in done.err
    assert json.loads(read(path)) == {"auths": {}, "other": {"kept": [1, 2]}}, read(path)
    done = bench.run("registry", "logout", f"docker://{basic.host}", env=env).ok()
    assert "There is no existing login" in done.err
    bench.run("pull", target_of(bench), uri, env={**env, "POSTERN_DISABLE_CACHE": "1"}).fails(255, "401")
    bench.run("registry", "login", f"docker://{basic.host}", env=env).fails(255, "requires a username")
    bench.run("registry", "login", "-u", "x", "-p", "y", "https://host", env=env).fails(255, "not supported")


def every_way_to_say_who(bench):
    """--authfile, flags, variables, DOCKER_AUTH_CONFIG and files of Docker and Apptainer; a file that is bad is said"""
    uri = f"docker://{basic.host}/private/image:1"
    auths = {"auths": {basic.host: {"auth": base64.b64encode(b"user:secret word").decode()}}}
    file = os.path.join(bench.work, "auth.json")
    with open(file, "w") as out:
        json.dump(auths, out)
    off = {"POSTERN_DISABLE_CACHE": "1"}
    bench.run("pull", "--authfile", file, target_of(bench), uri, env=env_of(bench, **off)).ok()
    bench.run("exec", "--authfile", file, uri, "cat", "/say", env=env_of(bench, **off)).prints("small\n")
    bench.run("build", "--authfile", file, target_of(bench), uri, env=env_of(bench, **off)).ok()
    for prefix in ("POSTERN_", "APPTAINER_", "SINGULARITY_"):
        bench.run("pull", target_of(bench), uri, env=env_of(bench, **off, **{prefix + "AUTH_FILE": file})).ok()
    for prefix in ("POSTERN_DOCKER_", "APPTAINER_DOCKER_", "SINGULARITY_DOCKER_", "DOCKER_"):
        bench.run("pull", target_of(bench), uri, env=env_of(bench, **off, **{
            prefix + "USERNAME": "user", prefix + "PASSWORD": "secret word"})).ok()
    bench.run("pull", "--docker-username", "user", "--docker-password", "secret word", target_of(bench), uri,
              env=env_of(bench, **off)).ok()
    bench.run("pull", target_of(bench), uri, env=env_of(bench, **off, DOCKER_AUTH_CONFIG=json.dumps(auths))).ok()
    bench.run("pull", "--docker-login", target_of(bench), uri, env=env_of(bench, **off), stdin="user\nsecret word\n").ok()
    bench.run("exec", "--docker-username", "user", "--docker-password", "secret word", uri, "cat", "/say",
              env=env_of(bench, **off)).prints("small\n")
    for place in (".docker/config.json", ".apptainer/docker-config.json", ".postern/docker-config.json"):
        env = env_of(bench, **off)
        os.makedirs(os.path.dirname(env["HOME"] + "/" + place))
        shutil.copy(file, env["HOME"] + "/" + place)
        subprocess.run(["chmod", "-R", "a+rX", env["HOME"]], check=True)
        bench.run("pull", target_of(bench), uri, env=env).ok()
    bad = os.path.join(bench.work, "bad.json")
    with open(bad, "w") as out:
        out.write("not json")
    for path in (bad, bad + ".absent"):
        done = bench.run("pull", "--authfile", path, target_of(bench), uri, env=env_of(bench, **off)).fails(255, "401")
        assert "Unable to find matching credentials in specified file" in done.err, done


def credential_helpers(bench):
    """docker-credential-NAME is asked, told and made to forget; a helper that fails is an error"""
    place = bench.make_directory("helpers")
    script = f"""#!/bin/sh
echo "$1" >> {place}/log
store={place}/store
case $1 in
  get) read -r key; [ -s "$store" ] && cat "$store" || {{ echo "credentials not found in native keychain"; exit 1; }} ;;
  store) cat > "$store" ;;
  erase) rm -f "$store" ;;
esac
"""
    path = place + "/docker-credential-test"
    with open(path, "w") as file:
        file.write(script)
    os.chmod(path, 0o755)
    env = env_of(bench, PATH=place + ":/usr/bin:/bin", POSTERN_DISABLE_CACHE="1")
    os.makedirs(env["HOME"] + "/.docker")
    os.chmod(env["HOME"] + "/.docker", 0o777)
    with open(env["HOME"] + "/.docker/config.json", "w") as file:
        json.dump({"credsStore": "test"}, file)
    os.chmod(env["HOME"] + "/.docker/config.json", 0o644)
    uri = f"docker://{basic.host}/private/image:1"
    bench.run("pull", target_of(bench), uri, env=env).fails(255, "401")
    bench.run("registry", "login", "-u", "user", "--password-stdin", f"docker://{basic.host}", env=env, stdin="secret word").ok()
    assert "secret" not in read(env["HOME"] + "/.docker/config.json")
    bench.run("pull", target_of(bench), uri, env=env).ok()
    bench.run("registry", "logout", f"docker://{basic.host}", env=env).ok()
    assert "erase" in read(place + "/log") and not os.path.exists(place + "/store")
    with open(path, "w") as file:
        file.write("#!/bin/sh\necho locked\nexit 3\n")
    bench.run("pull", target_of(bench), uri, env=env).fails(255, "docker-credential-test failed: locked")


def token_server(registry_user=None):
    """A registry that wants tokens of another server, and that server."""
    log = []

    def tokens(request):
        query = urllib.parse.parse_qs(request.path.partition("?")[2] or request.body.decode())
        who = request.headers.get("Authorization", "")
        log.append((request.command, query, who))
        if request.command == "POST":
            good = query.get("refresh_token") == ["identity"]
        else:
            good = registry_user is None or who == "Basic " + base64.b64encode(registry_user.encode()).decode()
        request.reply(200 if good else 401, json.dumps({"token": "tok-" + query["scope"][0]} if good else {"details": "incorrect username or password"}))

    server = world.Server(tokens)

    def hook(request, kind, name):
        if request.headers.get("Authorization") != "Bearer tok-repository:x:pull":
            request.reply(401, "{}", {"WWW-Authenticate":
                                      f'Bearer realm="http://{server.host}/token",service="test",scope="repository:x:pull"'})
            return True

    registry = world.FakeRegistry(hook)
    registry.add(SMALL)
    return registry, server, log


def tokens(bench):
    """bearer tokens: anonymous, with a password, with an identity token; the password goes to the token server only"""
    off = {"POSTERN_DISABLE_CACHE": "1"}
    registry, server, log = token_server()
    bench.run("pull", target_of(bench), f"docker://{registry.host}/x", env=env_of(bench, **off)).ok()
    assert log[0][1] == {"service": ["test"], "scope": ["repository:x:pull"]} and len(log) == 1, log
    for one in (registry, server):
        one.stop()
    registry, server, log = token_server("user:pw")
    uri = f"docker://{registry.host}/x"
    bench.run("pull", target_of(bench), uri, env=env_of(bench, **off)).fails(255, "unable to retrieve auth token: invalid username/password")
    bench.run("pull", target_of(bench), uri, env=env_of(bench, **off, DOCKER_USERNAME="user", DOCKER_PASSWORD="pw")).ok()
    assert not [r for r in registry.requests if r[2].get("Authorization", "").startswith("Basic")], "the password went to the registry"
    auths = json.dumps({"auths": {registry.host: {"identitytoken": "identity"}}})
    bench.run("pull", target_of(bench), uri, env=env_of(bench, **off, DOCKER_AUTH_CONFIG=auths)).ok()
    assert log[-1][0] == "POST" and log[-1][1]["grant_type"] == ["refresh_token"]
    for one in (registry, server):
        one.stop()


def hostile_token_servers(bench):
    """a token with line ends, HTML instead of a token, a realm that is no address: errors, and nothing is sent there"""
    off = {"POSTERN_DISABLE_CACHE": "1"}
    for answer, word in ((json.dumps({"token": "a\r\nX-Evil: 1"}), "bytes that no token has"), ("<html>", "not JSON"), ("{}", "no token")):
        server = world.Server(lambda request, answer=answer: request.reply(200, answer))
        registry = world.FakeRegistry(lambda request, kind, name, server=server: not request.reply(401, "{}", {
            "WWW-Authenticate": f'Bearer realm="http://{server.host}/t",service="s"'}))
        bench.run("pull", target_of(bench), f"docker://{registry.host}/x", env=env_of(bench, **off)).fails(255, word)
        registry.stop()
        server.stop()
    registry = world.FakeRegistry(lambda request, kind, name: not request.reply(401, "{}", {
        "WWW-Authenticate": 'Bearer realm="file:///etc/passwd",service="s"'}))
    bench.run("pull", target_of(bench), f"docker://{registry.host}/x", env=env_of(bench, **off)).fails(255, "not an http")
    registry.stop()


# --------------------------------------------------------------------------------------- sending

def push_and_pull(bench):
    """push oras:// and pull it by another name: the same bytes; tag, search and delete"""
    image = sif(bench)
    env = env_of(bench)
    host = plain.host
    done = bench.run("push", "--annotation", "a=b", "--annotation", "c", "--description", "words", image, f"oras://{host}/team/tool:1", env=env).ok()
    assert "Upload complete" in done.err and 'Value missing for "c", not setting' in done.err, done
    digest = next(line.split()[-1] for line in done.err.splitlines() if "Digest:" in line)
    raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{host}/team/tool:1"], capture_output=True, check=True).stdout
    assert world.digest(raw) == digest
    manifest = json.loads(raw)
    assert manifest["config"]["mediaType"] == world.SIF_CONFIG and len(manifest["layers"]) == 1
    assert manifest["layers"][0]["mediaType"] == world.SIF_LAYER
    assert manifest["layers"][0]["annotations"] == {"org.opencontainers.image.title": "image.sif"}
    assert manifest["annotations"]["a"] == "b" and manifest["annotations"]["org.opencontainers.image.description"] == "words"
    target = target_of(bench)
    done = bench.run("pull", target, f"oras://{host}/team/tool:1", env=env).ok()
    assert f"Digest: {digest}" in done.err and "Downloading oras image" in done.err
    with open(target, "rb") as one, open(image, "rb") as other:
        assert one.read() == other.read()
    done = bench.run("pull", "--force", target, f"oras://{host}/team/tool:1", env=env).ok()
    assert "Using cached SIF image" in done.err
    bench.run("exec", f"oras://{host}/team/tool:1", "cat", "/say", env=env).prints("small\n")
    bench.run("exec", f"oras://{host}/team/tool@{digest}", "cat", "/say", env=env).prints("small\n")
    done = bench.run("tag", f"oras://{host}/team/tool:1", "new", env=env).ok()
    assert f'Image //{host}/team/tool:1 tagged "new".' in done.err
    bench.run("exec", f"oras://{host}/team/tool:new", "cat", "/say", env=env).prints("small\n")
    done = bench.run("search", f"oras://{host}", env=env).ok()
    assert f"oras://{host}/team/tool:1" in done.out and f"oras://{host}/team/tool:new" in done.out, done
    done = bench.run("search", f"oras://{host}/team/tool", env=env).ok()
    assert done.out.startswith("Found 2 container images for amd64"), done
    bench.run("delete", f"oras://{host}/team/tool:1", env=env, stdin="n\n").ok()
    done = bench.run("delete", "--force", f"oras://{host}/team/tool:1", env=env).ok()
    assert f"Image {host}/team/tool:1 (amd64) deleted." in done.err
    bench.run("pull", "--force", target, f"oras://{host}/team/tool:1", env=env).fails(255, "MANIFEST_UNKNOWN")


def wrong_kinds(bench):
    """oras:// on a container image and docker:// on a SIF say which to use; what is no SIF is not pushed"""
    env = env_of(bench)
    plain.put(f"oci:{layout}:latest", "an/image:1")
    bench.run("push", sif(bench), f"oras://{plain.host}/a/sif:1", env=env).ok()
    bench.run("pull", target_of(bench), f"oras://{plain.host}/an/image:1", env=env).fails(255, "docker:// instead of oras://")
    bench.run("pull", target_of(bench), f"docker://{plain.host}/a/sif:1", env=env).fails(255, "oras:// instead of docker://")
    bench.run("push", "/etc/passwd", f"oras://{plain.host}/a/b:1", env=env).fails(255, "invalid SIF")
    bench.run("push", "/nonexistent", f"oras://{plain.host}/a/b:1", env=env).fails(255, "No such file")
    bench.run("push", sif(bench), f"docker://{plain.host}/a/b:1", env=env).fails(255, "Unsupported transport type: docker")
    bench.run("push", sif(bench), "oras://nonexistent.invalid/a/b:1", env=env).fails(255, "cannot reach")


def cosign(bench):
    """--verify-key takes what the key has signed, and nothing else: another key, another image, no signature"""
    place = bench.make_directory("keys")
    for name in ("good", "other"):
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{place}/{name}.pem"], check=True)
        subprocess.run(["openssl", "ec", "-in", f"{place}/{name}.pem", "-pubout", "-out", f"{place}/{name}.pub"], check=True, capture_output=True)
        os.chmod(f"{place}/{name}.pub", 0o644)
    registry = world.FakeRegistry()
    registry.add(SMALL)
    other = world.Image([world.base_files(**{"say": "other\n"})])
    registry.add(other, "other")

    def sign(digest, about, key="good"):
        payload = world.dump({"critical": {"identity": {"docker-reference": ""}, "image": {"docker-manifest-digest": about},
                                           "type": "cosign container image signature"}, "optional": None})
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", f"{place}/{key}.pem"], input=payload, capture_output=True, check=True).stdout
        registry.blobs[world.digest(payload)] = payload
        registry.blobs[world.digest(b"{}")] = b"{}"
        registry.add_bytes("sha256-" + digest[7:] + ".sig", world.OCI_MANIFEST, world.dump({
            "schemaVersion": 2, "config": {"mediaType": world.OCI_CONFIG, "digest": world.digest(b"{}"), "size": 2},
            "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": world.digest(payload), "size": len(payload),
                        "annotations": {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}}]}))

    env = env_of(bench)
    uri = f"docker://{registry.host}/x"
    good = ("--verify-key", f"{place}/good.pub")
    bench.run("exec", *good, uri, "cat", "/say", env=env).fails(255, "is not signed by this key")
    sign(SMALL.digest, SMALL.digest)
    bench.run("exec", *good, uri, "cat", "/say", env=env).prints("small\n")
    bench.run("pull", *good, target_of(bench), uri, env=env).ok()
    bench.run("build", *good, target_of(bench), uri, env=env).ok()
    # The cache has it now: still nobody starts it who asks for another key.
    bench.run("exec", "--verify-key", f"{place}/other.pub", uri, "cat", "/say", env=env).fails(255, "the signature does not hold")
    sign(other.digest, SMALL.digest)
    bench.run("exec", *good, uri + ":other", "cat", "/say", env=env).fails(255, "of another image")
    sign(other.digest, other.digest, "other")
    bench.run("exec", *good, uri + ":other", "cat", "/say", env=env).fails(255, "the signature does not hold")
    bench.run("exec", uri + ":other", "cat", "/say", env={**env, "POSTERN_VERIFY_KEY": f"{place}/good.pub"}).fails(255, "does not hold")
    bench.run("exec", *good, f"http://{registry.host}/x.sif", "true", env=env).fails(255, "no signature that --verify-key")
    bench.run("exec", "--verify-key", "/nonexistent", uri, "true", env=env).fails(255, "/nonexistent")
    registry.stop()


def push_with_credentials(bench):
    """push to a registry that wants a password"""
    env = env_of(bench, DOCKER_USERNAME="user", DOCKER_PASSWORD="secret word")
    bench.run("push", sif(bench), f"oras://{basic.host}/mine/sif:1", env=env).ok()
    bench.run("exec", f"oras://{basic.host}/mine/sif:1", "cat", "/say", env=env).prints("small\n")
    bench.run("push", sif(bench), f"oras://{basic.host}/mine/sif:1", env=env_of(bench)).fails(255, "401")


def an_oras_server_that_lies(bench):
    """a SIF with other bytes than its digest, and one that is none, leave nothing"""
    with open(sif(bench), "rb") as file:
        data = file.read()
    for body, word in ((data[:-1] + b"x", "error verifying sha256"), (None, "is not a SIF")):
        registry = world.FakeRegistry()
        stored = data if body is not None else b"no sif at all"
        registry.blobs[world.digest(stored)] = body if body is not None else stored
        registry.blobs[world.digest(b"{}")] = b"{}"
        registry.add_bytes("1", world.OCI_MANIFEST, world.dump({
            "schemaVersion": 2, "config": {"mediaType": world.SIF_CONFIG, "digest": world.digest(b"{}"), "size": 2},
            "layers": [{"mediaType": world.SIF_LAYER, "digest": world.digest(stored), "size": len(stored)}]}))
        env = env_of(bench)
        target = target_of(bench)
        bench.run("pull", target, f"oras://{registry.host}/x:1", env=env).fails(255, word)
        assert not os.path.exists(target) and os.listdir(env["HOME"] + "/.postern/cache/oras") == []
        registry.stop()


def web_servers(bench):
    """https:// and http:// images: fetched once while they do not change, anew when they do"""
    with open(sif(bench), "rb") as file:
        data = file.read()
    state = {"modified": "Mon, 01 Jan 2024 00:00:00 GMT"}

    def serve(request):
        if request.path.startswith("/image.sif"):
            request.reply(200, data, {"Last-Modified": state["modified"]})
        else:
            request.reply(404, "no")

    server = world.Server(serve)
    env = env_of(bench)
    bench.run("exec", f"http://{server.host}/image.sif", "cat", "/say", env=env).prints("small\n")
    bench.run("exec", f"http://{server.host}/image.sif", "cat", "/say", env=env).prints("small\n")
    assert [r[0] for r in server.requests].count("GET") == 1
    state["modified"] = "Tue, 02 Jan 2024 00:00:00 GMT"
    bench.run("exec", f"http://{server.host}/image.sif", "cat", "/say", env=env).prints("small\n")
    assert [r[0] for r in server.requests].count("GET") == 2
    bench.run("pull", target_of(bench), f"http://{server.host}/absent.sif", env=env).fails(255, "the requested image was not found")
    server.stop()


# -------------------------------------------------------------------------------------- libraries

def library_pull(bench):
    """pull library:// from --library and from a remote: hash checked, unsigned images are said but stay"""
    with open(sif(bench), "rb") as file:
        data = file.read()
    server = world.LibraryServer()
    server.add("e/c/n", "1", data)
    base = f"http://{server.host}/library"
    env = env_of(bench)
    target = target_of(bench)
    bench.run("pull", target, "library://e/c/n:1", env=env).fails(255, "no library client")
    done = bench.run("pull", "--library", base, target, "library://e/c/n:1", env=env).ok()
    warnings = [line for line in done.err.splitlines() if line.startswith("WARNING:")]
    assert len(warnings) == 2 and "Skipping container verification" in warnings[1], done
    with open(target, "rb") as file:
        assert file.read() == data
    done = bench.run("pull", "--force", "--library", base, target, "library://e/c/n:1", env=env).ok()
    assert "Using cached image" in done.err
    bench.run("exec", "library://e/c/n:1", "cat", "/say", env={**env, "POSTERN_LIBRARY": base}).prints("small\n")
    bench.run("pull", "--force", "--library", base, target, "library://e/c/n:9", env=env).fails(
        255, "While pulling library image: error fetching image: image does not exist in the library: e/c/n:9 (amd64)")
    bench.run("pull", "--library", base, "library://host/e/c/n:1", env=env).fails(255, "Conflicting arguments")
    wrong = data[:-1] + b"x"
    server.files[server.images[("e/c/n", "1", "amd64")]["id"]] = wrong
    target = target_of(bench, "wrong.sif")
    bench.run("pull", "--library", base, target, "library://e/c/n:1", env=env_of(bench)).fails(255, "does not match")
    assert not os.path.exists(target)
    server.images[("e/c/n", "1", "amd64")]["hash"] = "../../../../tmp/evil"
    bench.run("pull", "--library", base, target, "library://e/c/n:1", env=env_of(bench)).fails(255, "no SHA-256")
    server.stop()


def remotes(bench):
    """remote add, use, list, login, status, logout, remove; the token goes to the remote's own services only"""
    with open(sif(bench), "rb") as file:
        data = file.read()
    server = world.LibraryServer()
    server.add("e/c/n", "1", data)
    env = env_of(bench)
    tokenfile = os.path.join(bench.work, "token")
    with open(tokenfile, "w") as file:
        file.write(server.TOKEN + "\n")
    bench.run("remote", "add", "lab", f"http://{server.host}", env=env).fails(255, "requires --insecure")
    done = bench.run("remote", "add", "--insecure", "--tokenfile", tokenfile, "lab", f"http://{server.host}", env=env).ok()
    assert 'Remote "lab" added.' in done.err and "Access Token Verified!" in done.err, done
    path = env["HOME"] + "/.postern/remote.yaml"
    assert os.stat(path).st_mode & 0o777 == 0o600 and server.TOKEN in read(path)
    done = bench.run("remote", "list", env=env).ok()
    assert done.lines[1].split() == ["NAME", "URI", "DEFAULT?", "GLOBAL?", "EXCLUSIVE?", "SECURE?"] and "lab" in done.out
    done = bench.run("remote", "status", env=env).ok()
    assert "Library" in done.out and "1.2.3" in done.out and "Valid authentication token set" in done.err, done
    target = target_of(bench)
    bench.run("pull", target, "library://e/c/n:1", env=env).ok()
    assert [r for r in server.asked("/library/v1/images") if r[2].get("Authorization") == "Bearer " + server.TOKEN]
    # The remote's key server is asked, with the remote's token; one that --url names gets none.
    bench.run("key", "search", "somebody", env=env).fails(2, f"http://{server.host} has no key")
    assert [r[2].get("Authorization") for r in server.asked("/pks/lookup")] == ["Bearer " + server.TOKEN], server.asked("/pks")
    other = world.LibraryServer()
    other.add("e/c/n", "1", data)
    bench.run("key", "search", "--url", f"http://{other.host}", "somebody", env=env).fails(2, "has no key")
    bench.run("pull", "--force", "--library", f"http://{other.host}/library", target, "library://e/c/n:1", env=env).ok()
    assert not [r for r in other.requests if "Authorization" in r[2]], "the token went to another library"
    bench.run("remote", "login", "--tokenfile", "/etc/hostname", env=env).fails(255, "too short")
    bench.run("remote", "add", "--no-login", "lab", "x.org", env=env).fails(255, "lab is already a remote")
    bench.run("remote", "use", "nosuch", env=env).fails(255, "nosuch is not a remote")
    done = bench.run("remote", "logout", env=env).ok()
    assert server.TOKEN not in read(path)
    bench.run("remote", "remove", "lab", env=env).ok()
    bench.run("remote", "remove", "lab", env=env).fails(255, "lab is not a remote")
    bench.run("keyserver", "add", "https://k.example", env=env).fails(255, "not root user")
    bench.run("keyserver", "list", env=env).ok()
    with open(path, "w") as file:
        file.write("Active: [")
    bench.run("remote", "list", env=env).fails(255, "is not a file of remotes")
    server.stop()
    other.stop()


def library_push(bench):
    """push library:// wants a signature; with -U the image is there under its tags; search and delete"""
    server = world.LibraryServer()
    env = env_of(bench, POSTERN_LIBRARY=f"http://{server.host}/library")
    image = sif(bench)
    done = bench.run("push", image, "library://e/c/n:1,2", env=env)
    done.fails(255, "unable to verify signature")
    assert done.out.startswith("TIP:"), done
    done = bench.run("push", "-U", image, "library://e/c/n:1,2", env=env).ok()
    assert "Library storage: using 488.28 MiB out of 953.67 MiB quota (51.2% used)" in done.out, done
    with open(image, "rb") as file:
        data = file.read()
    assert server.files["new"] == data
    assert server.announced == {"filesize": len(data), "md5sum": hashlib.md5(data).hexdigest(), "sha256sum": hashlib.sha256(data).hexdigest()}
    assert ("e/c/n", "1", "amd64") in server.images and ("e/c/n", "2", "amd64") in server.images
    bench.run("push", "-U", image, "library://e/n:1", env=env).fails(255, "malformed image path")
    done = bench.run("search", "thing", env=env).ok()
    assert done.out == 'Found 1 container images for amd64 matching "thing":\n\n\tlibrary://e/c/found:1,2\n\t\ta thing\\x1b[2J\\x0a\\x09library://forged\n\t\tSigned by: AB\n\n', done
    done = bench.run("search", "nothing", env=env).ok()
    assert done.out == 'No container images found for amd64 matching "nothing".\n\n', done
    bench.run("search", "ab", env=env).fails(255, "at least 3 characters")
    done = bench.run("delete", "--force", "library://e/c/n:1", env=env).ok()
    assert "Image e/c/n:1 (amd64) deleted." in done.err
    bench.run("delete", "--force", "library://e/c/n:1", env=env).fails(255, "Unable to delete image from library")
    bench.run("delete", "--force", "--arch", "arm64", "library://e/c/n:2", env=env).fails(255, "Unable to delete image from library")
    assert ("e/c/n", "2", "amd64") in server.images, "another architecture than the named one was deleted"
    server.stop()


TESTS = [login_and_out, every_way_to_say_who, credential_helpers, tokens, hostile_token_servers, push_and_pull, wrong_kinds, cosign,
         push_with_credentials, an_oras_server_that_lies, web_servers, library_pull, remotes, library_push]

if __name__ == "__main__":
    bench.main(TESTS)
