#!/usr/bin/env python3
"""Images from registries, as an ordinary user: Debian's docker-registry filled by skopeo and buildah, and servers
written here that do what no good server does. Prints TAP."""
import gzip
import json
import os
import shutil
import subprocess
import sys
import time

import harness
import registry_world as world
import tap
from harness import Bench

world.need("docker-registry", "skopeo", "zstd", "openssl")
bench = Bench()
LAYERS = [world.base_files(**{"gone": "x\n", "data/old": "old\n", "data/kept": "kept\n"}),
          {".wh.gone": "", "data/old": "new\n", "data/more": "more\n"},
          {"opaque/.wh..wh..opq": "", "opaque/only": "only\n"}]
SMALL = world.Image([world.base_files(**{"say": "small\n"})])
plain = world.DockerRegistry(bench.top, "plain")
layout = world.Image(LAYERS).layout(bench.top + "/layout")
plain.put(f"oci:{layout}:latest", "group/image:1")
AMD64 = {"os": "linux", "architecture": "amd64"}


def cache(bench, name="cache"):
    """A cache of its own for a test."""
    path = os.path.join(bench.work, name)
    shutil.rmtree(path, ignore_errors=True)
    return {"POSTERN_CACHEDIR": path}


def entries(env, kind):
    place = os.path.join(env["POSTERN_CACHEDIR"], "cache", kind)
    return sorted(name for _, _, names in os.walk(place) for name in names)


def fresh(bench, name):
    path = os.path.join(bench.work, name)
    if os.path.exists(path):
        os.remove(path)
    return path


def pull(bench, uri, *options, name="out.sif", env=None, **keywords):
    target = fresh(bench, name)
    return target, bench.run("pull", *options, target, uri, env=env or cache(bench), **keywords)


def nothing_left(bench, target, env, whole=()):
    """Neither a half image nor a half entry under a final name."""
    assert not os.path.exists(target), "a file under the final name"
    assert not [name for name in os.listdir(os.path.dirname(target)) if name.startswith("tmp-copy-")]
    for name in entries(env, "blob"):
        path = os.path.join(env["POSTERN_CACHEDIR"], "cache/blob/blobs/sha256", name)
        if not name.startswith("tmp_"):
            with open(path, "rb") as file:
                assert world.digest(file.read()) == "sha256:" + name, f"a blob with other bytes: {name}"
    assert entries(env, "oci-tmp") == list(whole), entries(env, "oci-tmp")


# ------------------------------------------------------------------------------- good registries

def pull_and_run(bench):
    """pull docker:// makes a SIF of all layers, and it runs with the image's environment"""
    target, done = pull(bench, f"docker://{plain.host}/group/image:1")
    done.ok()
    assert done.out == "", done
    bench.run("exec", target, "cat", "/data/old", "/data/kept", "/data/more", "/opaque/only").prints("new\nkept\nmore\nonly\n")
    bench.run("exec", target, "sh", "-c", "echo $GREETING; ls /gone 2>/dev/null || echo gone").prints("hello\ngone\n")
    assert os.stat(target).st_mode & 0o777 == 0o755, oct(os.stat(target).st_mode)


def name_of_the_file(bench):
    """without a name the file is called after image and tag; --dir goes before it; a present file is not overwritten"""
    env = cache(bench)
    for name in ("image_1.sif", "sub/image_1.sif"):
        if os.path.exists(bench.work + "/" + name):
            os.remove(bench.work + "/" + name)
    os.makedirs(bench.work + "/sub", exist_ok=True)
    os.chmod(bench.work + "/sub", 0o777)
    bench.run("pull", f"docker://{plain.host}/group/image:1", env=env).ok()
    assert os.path.exists(bench.work + "/image_1.sif")
    bench.run("pull", "--dir", "sub", f"docker://{plain.host}/group/image:1", env=env).ok()
    assert os.path.exists(bench.work + "/sub/image_1.sif")
    bench.run("pull", f"docker://{plain.host}/group/image:1", env=env).fails(255, 'Image file already exists: "image_1.sif"')
    bench.run("pull", "--force", f"docker://{plain.host}/group/image:1", env=env).ok()
    bench.run("pull", "plain-name").fails(255, "No transport type URI supplied")
    bench.run("pull", "foo://bar").fails(255, "Unsupported transport type: foo")
    for uri in ("docker-daemon:alpine:3", "shub://a/b", "ipfs://bafy"):
        done = bench.run("pull", uri).fails(255, uri)
        assert "; " in done.err, f"a way round: {done}"


def second_pull_uses_the_cache(bench):
    """what was converted once is used again, by pull and by exec; the tag is asked for, nothing is downloaded"""
    env = cache(bench)
    registry = world.FakeRegistry()
    registry.add(SMALL)
    target, done = pull(bench, f"docker://{registry.host}/small", env=env)
    done.ok()
    assert "Converting OCI blobs to SIF format" in done.err, done
    before = len(registry.requests)
    target, done = pull(bench, f"docker://{registry.host}/small", env=env)
    done.ok()
    assert "Using cached SIF image" in done.err, done
    assert not [r for r in registry.requests[before:] if r[0] == "GET" and "/v2/small" in r[1]], registry.requests[before:]
    bench.run("exec", f"docker://{registry.host}/small", "cat", "/say", env=env).prints("small\n")
    assert len(entries(env, "oci-tmp")) == 1 and len(entries(env, "blob")) == 1
    registry.stop()


def every_action_takes_uris(bench):
    """exec, run, shell and build take docker://, oci:, oci-archive: and docker-archive:"""
    env = cache(bench)
    archive, docker = bench.work + "/a.oci.tar", bench.work + "/a.docker.tar"
    for path in (archive, docker):
        if os.path.exists(path):
            os.remove(path)
    for target in (f"oci-archive:{archive}:v1", f"docker-archive:{docker}:group/image:1"):
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{layout}:latest", target], check=True)
    for uri in (f"docker://{plain.host}/group/image:1", f"oci:{layout}:latest", f"oci-archive:{archive}:v1",
                f"docker-archive:{docker}"):
        bench.run("exec", uri, "cat", "/data/old", env=env).prints("new\n")
        bench.run("run", uri, "cat", "/data/more", env=env).prints("more\n")
        bench.run("shell", uri, env=env, stdin="cat /data/kept\n").prints("kept\n")
        image = fresh(bench, "built.sif")
        bench.run("build", image, uri, env=env).ok()
        bench.run("exec", image, "cat", "/opaque/only").prints("only\n")
        target, done = pull(bench, uri, env=env, name="pulled.sif")
        done.ok()
        bench.run("exec", target, "cat", "/data/old").prints("new\n")
    definition = fresh(bench, "image.def")
    with open(definition, "w") as file:
        file.write(f"Bootstrap: docker\nFrom: {plain.host}/group/image:1\n%environment\n  export ADDED=yes\n")
    image = fresh(bench, "defined.sif")
    bench.run("build", image, definition, env=env).ok()
    bench.run("exec", image, "sh", "-c", "echo $ADDED; cat /data/old").prints("yes\nnew\n")


def compressions(bench):
    """layers of gzip, zstd and no compression, written by skopeo and by this test, in one image too"""
    env = cache(bench)
    for kind in ("gzip", "zstd"):
        plain.put(f"oci:{layout}:latest", f"group/{kind}:1", "--dest-compress-format", kind, "--dest-compress", "--format=oci")
        bench.run("exec", f"docker://{plain.host}/group/{kind}:1", "cat", "/data/old", env=env).prints("new\n")
    plain.put(f"oci:{layout}:latest", "group/v2s2:1", "--format=v2s2")
    bench.run("exec", f"docker://{plain.host}/group/v2s2:1", "cat", "/data/old", env=env).prints("new\n")
    mixed = world.Image(LAYERS, compression=["+gzip", "+zstd", ""])
    registry = world.FakeRegistry()
    registry.add(mixed)
    bench.run("exec", f"docker://{registry.host}/mixed", "cat", "/data/old", "/opaque/only", env=env).prints("new\nonly\n")
    registry.stop()


def platforms(bench):
    """of an index the image for this platform, or for --arch and --arch-variant; attestations are none"""
    arm = {v: world.Image([world.base_files(**{"say": f"arm {v}\n"})], architecture="arm") for v in ("v6", "v7")}
    registry = world.FakeRegistry()
    for image in (SMALL, *arm.values()):
        registry.add(image)
    attestation = {"mediaType": world.OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 5,
                   "platform": {"os": "unknown", "architecture": "unknown"}}
    index = world.index_of([(arm["v6"], {"os": "linux", "architecture": "arm", "variant": "v6"}), (SMALL, AMD64),
                            (arm["v7"], {"os": "linux", "architecture": "arm", "variant": "v7"})], [attestation])
    registry.add_bytes("many", world.OCI_INDEX, index)
    env = cache(bench)
    bench.run("exec", f"docker://{registry.host}/x:many", "cat", "/say", env=env).prints("small\n")
    for options, text in ((("--arch", "arm", "--arch-variant", "6"), "arm v6"), (("--arch", "arm"), "arm v7"),
                          (("--arch", "arm32v6",), "arm v6")):
        target, done = pull(bench, f"docker://{registry.host}/x:many", *options, env=env)
        done.ok()
        tree = os.path.join(bench.work, "tree")
        shutil.rmtree(tree, ignore_errors=True)
        bench.run("build", "--sandbox", tree, target).ok()
        with open(tree + "/say") as file:
            assert file.read() == text + "\n", options
    _, done = pull(bench, f"docker://{registry.host}/x:many", "--arch", "arm64", env=env)
    done.fails(255, "no child with platform linux/arm64 in index", "linux/amd64")
    _, done = pull(bench, f"docker://{registry.host}/x:many", "--arch", "foo", env=env)
    done.fails(255, "arch: foo is not valid")
    registry.stop()


def by_digest(bench):
    """an image is named by its digest; a wrong one leaves nothing"""
    env = cache(bench)
    registry = world.FakeRegistry()
    registry.add(SMALL)
    target, done = pull(bench, f"docker://{registry.host}/small@{SMALL.digest}", env=env)
    done.ok()
    registry.manifests["sha256:" + "1" * 64] = registry.manifests["latest"]
    target, done = pull(bench, f"docker://{registry.host}/small@sha256:{'1' * 64}", env=cache(bench, "c2"))
    done.fails(255, "has the digest")
    registry.stop()


# ----------------------------------------------------------------------------------- bad servers

def hostile(bench, hook, *words, image=SMALL, env=None, code=255, options=(), fails=True):
    registry = world.FakeRegistry(hook)
    registry.add(image)
    env = env or cache(bench)
    target, done = pull(bench, f"docker://{registry.host}/x", *options, env=env, timeout=120)
    if fails:
        done.fails(code, *words)
        nothing_left(bench, target, env)
    else:
        done.ok()
    registry.stop()
    return registry, done


def lies(bench):
    """wrong digests, wrong lengths, HTML, other documents: an error that names it, and nothing is left"""
    layer = SMALL.layers[0]["digest"]

    def other_bytes(request, kind, name):
        if name == layer:
            request.reply(200, b"x" * len(SMALL.blobs[layer]))
            return True

    hostile(bench, other_bytes, "error verifying sha256 checksum after reading", layer)

    def longer(request, kind, name):
        if name == layer:
            request.reply(200, SMALL.blobs[layer] + b"more")
            return True

    hostile(bench, longer, "bytes instead of")

    def endless(request, kind, name):
        if name == layer:
            request.send_response(200)
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            while True:
                request.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    hostile(bench, endless, "sends more than the")

    def html(request, kind, name):
        if kind == "manifest":
            request.reply(200, "<html>Please log in</html>", {"Content-Type": "text/html"})
            return True

    hostile(bench, html, "text/html", "no image manifest")

    def wrong_config(request, kind, name):
        if name == SMALL.config["digest"]:
            request.reply(200, b"{}" + b" " * (SMALL.config["size"] - 2))
            return True

    hostile(bench, wrong_config, "error verifying sha256 checksum", SMALL.config["digest"])

    def promised(request, kind, name):
        if kind == "manifest":
            request.reply(200, SMALL.manifest, {"Content-Type": world.OCI_MANIFEST, "Docker-Content-Digest": "sha256:" + "2" * 64})
            return True

    hostile(bench, promised, "has the digest")
    bad = world.Image([world.base_files()])
    document = json.loads(bad.blobs[bad.config["digest"]])
    document["rootfs"]["diff_ids"] = ["sha256:" + "3" * 64]
    bad.config = bad.add(world.dump(document), world.OCI_CONFIG)
    bad.manifest = world.dump({"schemaVersion": 2, "mediaType": world.OCI_MANIFEST, "config": bad.config, "layers": bad.layers})
    hostile(bench, None, "is not what its configuration says", image=bad)


def media_types(bench):
    """an index called a manifest, both at once, schema 1, a chart: each is named"""
    registry = world.FakeRegistry()
    registry.add(SMALL)
    both = {"schemaVersion": 2, "manifests": [], "config": SMALL.config, "layers": SMALL.layers}
    registry.add_bytes("both", world.OCI_MANIFEST, world.dump(both))
    index = world.index_of([(SMALL, AMD64)])
    registry.add_bytes("confused", world.OCI_MANIFEST, index)
    silent = json.loads(SMALL.manifest)
    del silent["mediaType"]
    registry.add_bytes("silent", world.OCI_INDEX, world.dump(silent))
    registry.add_bytes("schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws",
                       world.dump({"schemaVersion": 1, "name": "x", "fsLayers": []}))
    chart = {"schemaVersion": 2, "config": registry_blob(registry, b"{}", "application/vnd.cncf.helm.config.v1+json"),
             "layers": [registry_blob(registry, b"chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")]}
    registry.add_bytes("chart", world.OCI_MANIFEST, world.dump(chart))
    sif = {"schemaVersion": 2, "config": registry_blob(registry, b"{}", world.SIF_CONFIG),
           "layers": [registry_blob(registry, b"sif", world.SIF_LAYER)]}
    registry.add_bytes("sif", world.OCI_MANIFEST, world.dump(sif))
    lying = json.loads(index)
    lying["manifests"][0]["mediaType"] = world.OCI_INDEX
    registry.add_bytes("lying", world.OCI_INDEX, world.dump(lying))
    for tag, words in (("both", ["at once"]), ("confused", ["calls itself"]), ("silent", ["is not one"]),
                       ("schema1", ["schema 1", "skopeo"]), ("chart", ["no extractable OCI/Docker tar layers"]),
                       ("sif", ["no extractable", "oras://"]), ("lying", ["calls"]),
                       ("absent", ["404", "MANIFEST_UNKNOWN"])):
        env = cache(bench)
        target, done = pull(bench, f"docker://{registry.host}/x:{tag}", env=env)
        done.fails(255, *words)
        nothing_left(bench, target, env)
    registry.stop()


def registry_blob(registry, data, media_type):
    registry.blobs[world.digest(data)] = data
    return {"mediaType": media_type, "digest": world.digest(data), "size": len(data)}


def statuses(bench):
    """401, 403, 404, 500 and 429 for ever are errors with a way round; 429 and 503 once are waited for"""
    for status, words in ((401, ["401"]), (403, ["403"]), (500, ["500"])):
        hostile(bench, lambda request, kind, name, status=status: kind == "manifest" and not request.reply(status, "no"), *words)
    seen = []

    def busy(request, kind, name):
        if kind == "blob" and len(seen) < 2:
            seen.append(time.time())
            request.reply(429 if len(seen) == 1 else 503, "later", {"Retry-After": "1"})
            return True

    hostile(bench, busy, fails=False)
    assert len(seen) == 2
    hostile(bench, lambda request, kind, name: kind == "manifest" and not request.reply(
        429, world.dump({"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit"}]}),
        {"Retry-After": "1000"}), "TOOMANYREQUESTS", "rate limit")


def cut_at_each_place(bench):
    """a blob that is cut is resumed by Range where it was cut; a server without ranges starts again"""
    layer = SMALL.layers[0]["digest"]
    data = SMALL.blobs[layer]
    for ranges in (True, False):
        cuts = []

        def cut(request, kind, name, ranges=ranges, cuts=cuts):
            if name != layer or len(cuts) >= 3:
                return False
            start = int(request.headers["Range"].split("=")[1].split("-")[0]) if ranges and request.headers.get("Range") else 0
            cuts.append(start)
            end = min(len(data) - 1, start + [1, 70000, len(data) // 2][len(cuts) - 1])
            request.send_response(206 if start else 200)
            if start:
                request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            request.send_header("Content-Length", str(len(data) - start))
            request.end_headers()
            request.wfile.write(data[start:end])
            request.wfile.flush()
            request.close_connection = True
            request.connection.shutdown(2)
            return True

        if not ranges:
            real = world.FakeRegistry.send_blob
            world.FakeRegistry.send_blob = staticmethod(lambda request, blob: request.reply(200, blob))
        try:
            registry, _ = hostile(bench, cut, fails=False)
        finally:
            if not ranges:
                world.FakeRegistry.send_blob = staticmethod(real)
        assert len(cuts) == 3, cuts
        if ranges:
            assert cuts[1] == 1 and cuts[2] > 1, cuts
            last = [r for r in registry.requests if layer in r[1] and "Range" in r[2]][-1]
            assert last[2]["Range"] != "bytes=0-", last


def cut_in_headers(bench):
    """connections that are cut in the headers, or before any byte, are tried again"""
    count = []

    def cut(request, kind, name):
        if kind != "ping" and len(count) < 2:
            count.append(kind)
            if len(count) == 2:
                request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
                request.wfile.flush()
            request.close_connection = True
            request.connection.shutdown(2)
            return True

    hostile(bench, cut, fails=False)
    assert len(count) == 2


def stalls(bench):
    """a server that stalls is given up"""
    layer = SMALL.layers[0]["digest"]

    def stall(request, kind, name):
        if name == layer:
            request.send_response(200)
            request.send_header("Content-Length", str(len(SMALL.blobs[layer])))
            request.end_headers()
            request.wfile.write(b"x")
            request.wfile.flush()
            request.rfile.read(1)  # until the other side has given up
            return True

    hostile(bench, stall, "does not answer any more", env={**cache(bench), "POSTERN_HTTP_TIMEOUT": "5"})


def killed(bench):
    """killed at any instant, pull leaves no half image; the next run takes up what was there"""
    registry = world.FakeRegistry(lambda request, kind, name: kind == "blob" and time.sleep(0.05))
    registry.add(world.Image(LAYERS))
    env = cache(bench)
    for delay in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8):
        target = fresh(bench, "killed.sif")
        process = bench.popen("pull", target, f"docker://{registry.host}/x", env=env)
        time.sleep(delay)
        process.kill()
        process.communicate()
        tap.wait_until(lambda: bench.end_processes() or not bench.processes(), "its programs do not end")
        if os.path.exists(target):
            bench.run("exec", target, "cat", "/data/old").prints("new\n")
    target, done = pull(bench, f"docker://{registry.host}/x", env=env)
    done.ok()
    bench.run("exec", target, "cat", "/data/old", "/data/more").prints("new\nmore\n")
    assert not [name for name in entries(env, "blob") + entries(env, "oci-tmp") if name.startswith("tmp_")]
    registry.stop()


def damaged_cache(bench):
    """bytes of the cache that have changed are found and fetched anew: blobs and converted images"""
    registry = world.FakeRegistry()
    registry.add(world.Image(LAYERS))
    env = cache(bench)
    pull(bench, f"docker://{registry.host}/x", env=env)[1].ok()
    blobs = os.path.join(env["POSTERN_CACHEDIR"], "cache/blob/blobs/sha256")
    converted = os.path.join(env["POSTERN_CACHEDIR"], "cache/oci-tmp")

    def damage(directory, name):
        path = os.path.join(directory, name)
        with open(path, "r+b") as file:
            file.seek(os.path.getsize(path) // 2)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 0xff]))

    damage(converted, os.listdir(converted)[0])
    for name in os.listdir(blobs):
        damage(blobs, name)
    target, done = pull(bench, f"docker://{registry.host}/x", env=env)
    done.ok()
    assert "damaged" in done.err, done
    bench.run("exec", target, "cat", "/data/old", "/data/more").prints("new\nmore\n")
    name = os.listdir(converted)[0]
    os.truncate(os.path.join(converted, name), 1000)
    bench.run("exec", f"docker://{registry.host}/x", "cat", "/data/old", env=env).prints("new\n")
    registry.stop()


def many_at_once(bench):
    """16 processes that want the same image at once fetch it once"""
    registry = world.FakeRegistry(lambda request, kind, name: kind == "blob" and time.sleep(0.3))
    registry.add(world.Image(LAYERS))
    env = cache(bench)
    processes = [bench.popen("exec", f"docker://{registry.host}/x", "cat", "/data/old", env=env) for _ in range(16)]
    for process in processes:
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0 and out == b"new\n", (process.returncode, out, err)
    blobs = [r for r in registry.requests if "/blobs/" in r[1]]
    assert len(blobs) == 4, f"three layers and a configuration, not {len(blobs)}"
    registry.stop()


def without_a_cache(bench):
    """--disable-cache and a cache that cannot be written: the image is there, the cache and /tmp are not used"""
    env = cache(bench)
    target, done = pull(bench, f"docker://{plain.host}/group/image:1", "--disable-cache", env=env)
    done.ok()
    assert not os.path.exists(env["POSTERN_CACHEDIR"])
    bench.run("exec", target, "cat", "/data/old").prints("new\n")
    bench.run("exec", "--disable-cache", f"docker://{plain.host}/group/image:1", "cat", "/data/old", env=env).prints("new\n")
    assert not os.path.exists(env["POSTERN_CACHEDIR"])
    os.makedirs(env["POSTERN_CACHEDIR"], mode=0o555)
    target, done = pull(bench, f"docker://{plain.host}/group/image:1", env=env)
    assert done.code == 0 and "Cache disabled" in done.err or done.code == 255, done
    os.chmod(env["POSTERN_CACHEDIR"], 0o755)
    # A place that somebody else may fill says nothing about what runs.
    env = cache(bench, "shared")
    os.makedirs(env["POSTERN_CACHEDIR"] + "/cache")
    os.chmod(env["POSTERN_CACHEDIR"] + "/cache", 0o777)
    target, done = pull(bench, f"docker://{plain.host}/group/image:1", env=env)
    assert "belongs to another user" in done.ok().err, done
    bench.run("exec", target, "cat", "/data/old").prints("new\n")


def odd_places(bench):
    """a cache and a directory for temporary files by relative names; something in the cache that is no entry"""
    env = {"POSTERN_CACHEDIR": "relative"}
    uri = f"docker://{plain.host}/group/image:1"
    bench.run("exec", uri, "cat", "/data/old", env=env).prints("new\n")
    os.makedirs(bench.work + "/scratch", exist_ok=True)
    os.chmod(bench.work + "/scratch", 0o777)
    bench.run("exec", "--disable-cache", "--tmpdir", "scratch", uri, "cat", "/data/old", env=env).prints("new\n")
    assert os.listdir(bench.work + "/scratch") == []
    place = bench.work + "/relative/cache/oci-tmp"
    name = os.listdir(place)[0]
    os.chmod(os.path.join(place, name), 0)
    bench.run("exec", uri, "cat", "/data/old", env=env).prints("new\n")
    os.remove(os.path.join(place, name))
    os.symlink("/etc/passwd", os.path.join(place, name))
    bench.run("exec", uri, "cat", "/data/old", env=env).prints("new\n")
    os.remove(os.path.join(place, name))
    os.mkdir(os.path.join(place, name))
    bench.run("exec", uri, "true", env=env).fails(255, "no entry of the cache", name)


def cache_commands(bench):
    """cache list and clean: what is there, by type and age; a dry run removes nothing"""
    env = cache(bench)
    pull(bench, f"docker://{plain.host}/group/image:1", env=env)[1].ok()
    done = bench.run("cache", "list", env=env).ok()
    assert done.out.startswith("There are 1 container file(s) using ") and " and 3 oci blob file(s) using " in done.out, done
    assert "Total space used:" in done.out
    done = bench.run("cache", "list", "-v", "-T", "oci-tmp", env=env).ok()
    assert done.lines[0].split() == ["NAME", "DATE", "CREATED", "SIZE", "TYPE"] and done.lines[1].endswith("oci-tmp"), done
    bench.run("cache", "list", "-T", "../x", env=env).fails(255, "no type '../x'")
    done = bench.run("cache", "clean", "-n", env=env).ok()
    assert "User requested a dry run" in done.out and len(entries(env, "oci-tmp")) == 1
    done = bench.run("cache", "clean", env=env, stdin="n\n").ok()
    assert "Handle cleanup canceled" in done.err and len(entries(env, "oci-tmp")) == 1
    bench.run("cache", "clean", env=env, stdin="").fails(255, "EOF")
    bench.run("cache", "clean", "-f", "-D", "1", env=env).ok()
    assert len(entries(env, "oci-tmp")) == 1
    bench.run("cache", "clean", "-f", "-T", "blob", env=env).ok()
    assert entries(env, "blob") == [] and len(entries(env, "oci-tmp")) == 1
    bench.run("cache", "clean", env=env, stdin="y\n").ok()
    assert entries(env, "oci-tmp") == []
    for name in ("APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR"):
        done = bench.run("cache", "list", env={name: env["POSTERN_CACHEDIR"]}).ok()
        assert done.out.startswith("There are 0 container file(s)"), done


def redirects_lose_credentials(bench):
    """credentials stay with the server they are for, whatever redirects say; from there no way to http or back"""
    elsewhere = world.Server(lambda request: world.FakeRegistry.send_blob(request, SMALL.blobs[SMALL.layers[0]["digest"]]))

    def hook(request, kind, name):
        if request.headers.get("Authorization") != "Basic dXNlcjpzZWNyZXQ=":
            request.reply(401, "{}", {"WWW-Authenticate": 'Basic realm="test"'})
            return True
        if name == SMALL.layers[0]["digest"]:
            request.reply(307, "", {"Location": f"http://{elsewhere.host}/storage?signature=abc"})
            return True

    registry = world.FakeRegistry(hook)
    registry.add(SMALL)
    env = {**cache(bench), "POSTERN_DOCKER_USERNAME": "user", "POSTERN_DOCKER_PASSWORD": "secret"}
    target, done = pull(bench, f"docker://{registry.host}/x", env=env)
    done.ok()
    assert len(elsewhere.requests) == 1 and "Authorization" not in elsewhere.requests[0][2], elsewhere.requests
    assert "secret" not in done.err and "dXNlcjpzZWNyZXQ=" not in done.err
    _, done = pull(bench, f"docker://{registry.host}/x", env=cache(bench))
    done.fails(255, "401", "log in")
    registry.stop()
    elsewhere.stop()


def through_a_proxy(bench):
    """http_proxy and no_proxy are obeyed"""
    log = []
    proxy = world.proxy(log)
    env = {**cache(bench), "http_proxy": f"http://{proxy.host}", "no_proxy": ""}
    target, done = pull(bench, f"docker://{plain.host}/group/image:1", "--no-https", env=env)
    done.ok()
    assert [url for url in log if "/blobs/" in url], log
    log.clear()
    target, done = pull(bench, f"docker://{plain.host}/group/image:1", env={**cache(bench), **{
        "http_proxy": f"http://{proxy.host}", "no_proxy": "127.0.0.1"}})
    done.ok()
    assert log == []
    proxy.stop()


def tls(bench):
    """over TLS with an authority of one's own; one that nobody vouches for only with --no-https"""
    pair = world.certificate(bench.top + "/tls")
    registry = world.DockerRegistry(bench.top, "secure", tls=pair)
    registry.put(f"oci:{layout}:latest", "image:1")
    uri = f"docker://{registry.host}/image:1"
    _, done = pull(bench, uri)
    done.fails(255, "certificate", "SSL_CERT_FILE")
    target, done = pull(bench, uri, env={**cache(bench), "SSL_CERT_FILE": pair[0]})
    done.ok()
    pull(bench, uri, "--no-https")[1].ok()
    place = bench.user.home + "/.config/containers/certs.d/" + registry.host
    os.makedirs(place)
    shutil.copy(pair[0], place + "/ca.crt")
    subprocess.run(["chmod", "-R", "a+rX", bench.user.home + "/.config"], check=True)
    pull(bench, uri)[1].ok()
    shutil.rmtree(bench.user.home + "/.config")
    registry.stop()


TESTS = [pull_and_run, name_of_the_file, second_pull_uses_the_cache, every_action_takes_uris, compressions, platforms, by_digest,
         lies, media_types, statuses, cut_at_each_place, cut_in_headers, stalls, killed, damaged_cache, many_at_once,
         without_a_cache, odd_places, cache_commands, redirects_lose_credentials, through_a_proxy, tls]

if __name__ == "__main__":
    bench.main(TESTS)
