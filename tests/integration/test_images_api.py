"""Images from Python: fastctr.images, and run(), Plan and Container by image."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("fastctr._core")

import fastctr
from fastctr import images
from fastctr.errors import ImageError, ImageNotFound, SpecError, StoreError
from fastctr.from_image import use
from fastctr.image.store import get as store_at
from image_fixtures import base, root  # noqa: F401
from image_support import Index, entry, extract, make_layer
from image_support import Image as MadeImage
from registry_support import ImageServer, private  # noqa: F401

pytestmark = [pytest.mark.needs_root, pytest.mark.usefixtures("private")]
CONFIG = {
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["echo from the image; id -un; pwd; echo $A $B; trap 'echo stopped; exit 4' USR2; echo ready; sleep 60 & wait"],
    "Env": ["PATH=/bin", "A=image", "B=image"],
    "WorkingDir": "/work/deep",
    "User": "user",
    "StopSignal": "SIGUSR2",
    "Volumes": {"/vol/new": {}, "/tmp": {}},
    "ExposedPorts": {"80/tcp": {}},
    "Labels": {"who": "tests"},
    "Shell": ["/bin/sh", "-c"],
}


@pytest.fixture
def store(root):
    return store_at(root)


def put(store, base, name="mine/box:1", config=None, more=()):
    return MadeImage([base, *more], {"Cmd": ["sh"], "Env": ["PATH=/bin"], **(config or {})}).put(store, name)


def sh(script, **kw):
    kw.setdefault("image", "mine/box:1")
    done = fastctr.run(["sh", "-c", script], capture_output=True, text=True, timeout=20, **kw)
    assert done.returncode == 0, done.stderr
    return done.stdout


def out(argv=None, **kw):
    kw.setdefault("image", "mine/box:1")
    done = fastctr.run(argv, capture_output=True, text=True, timeout=20, **kw)
    return done.stdout + done.stderr


def layer_dirs(root):
    return sorted(os.listdir(f"{root}/layers/overlay")) if os.path.isdir(f"{root}/layers/overlay") else []


# ---- config


def test_command_rules(store, base):
    put(store, base, config={"Cmd": ["echo", "cmd"]})
    assert out() == out(None) == out([]) == "cmd\n" and out(["echo", "given"]) == "given\n"
    put(store, base, "mine/entry:1", {"Entrypoint": ["echo", "entry"], "Cmd": ["cmd"]})
    assert out(image="mine/entry:1") == "entry cmd\n"
    assert out(["given"], image="mine/entry:1") == "entry given\n"
    assert out(["x"], image="mine/entry:1", entrypoint=["echo", "own"]) == "own x\n"
    assert out(image="mine/entry:1", entrypoint="pwd") == "/\n"  # the image's Cmd goes with its Entrypoint
    assert out(["echo", "bare"], image="mine/entry:1", entrypoint="") == "bare\n"
    assert fastctr.run(image="mine/entry:1", stdout=fastctr.PIPE).args == ["echo", "entry", "cmd"]


def test_no_command_at_all(store, base):
    put(store, base, config={"Cmd": None})
    with pytest.raises(SpecError, match="names no command"):
        fastctr.run(image="mine/box:1")
    with pytest.raises(SpecError, match="is one string"):
        fastctr.run("echo x", image="mine/box:1")


def test_env_lies_under_what_is_given(store, base):
    put(store, base, config={"Env": ["PATH=/bin", "A=image", "B=image", "EMPTY="]})
    assert sh("echo $A $B $C ${EMPTY-unset}", env={"B": "given", "C": "c"}) == "image given c\n"
    assert sh("echo $A; echo $HOME", env=["A=list"]).split() == ["list", "/root"]
    assert "A=" not in sh("/bin/env", clean_env=True, env={"PATH": "/bin"})
    plan = fastctr.Plan(image="mine/box:1", env={"A": "plan"})
    assert plan.run(["sh", "-c", "echo $A $B"], env={"B": "run"}, capture_output=True).stdout == b"plan run\n"


def test_working_directory_is_made(store, base):
    put(store, base, config={"WorkingDir": "/work/deep"})
    assert sh("pwd") == "/work/deep\n" and sh("pwd", read_only=True) == "/work/deep\n"
    assert sh("pwd", cwd="/made/too") == "/made/too\n"
    put(store, base, "mine/odd:1", {"WorkingDir": "app/../there"})
    assert sh("pwd", image="mine/odd:1") == "/there\n"


def test_user_by_name_is_looked_up_inside(store, base):
    put(store, base, config={"User": "user"})
    found = sh("id; echo $HOME")
    assert found.startswith("uid=1000(user) gid=1000(user)") and "2000(extra)" in found and found.endswith("/tmp\n")
    assert "uid=0(root)" in sh("id", user="root") and "uid=7 gid=8" in sh("id", user="7:8")
    put(store, base, "mine/nobody:1", {"User": "nobody-here"})
    with pytest.raises(fastctr.LaunchError, match="no user"):
        fastctr.run(["true"], image="mine/nobody:1")
    put(store, base, "mine/bad:1", {"User": "a b"})
    with pytest.raises(ImageError, match="its config asks for what cannot be done"):
        fastctr.run(["true"], image="mine/bad:1")


def test_stop_signal(store, base):
    put(store, base, config={"StopSignal": "SIGUSR2"})
    script = "trap 'echo usr2; exit 5' USR2; trap 'echo term; exit 6' TERM; echo ready; while :; do sleep 0.05; done"

    def stopped(**kw):
        with fastctr.Container(["sh", "-c", script], image="mine/box:1", stdout=fastctr.PIPE, text=True) as c:
            assert c.stdout.readline() == "ready\n"
            return c.stop(**kw), c.stdout.read()

    assert stopped() == (5, "usr2\n")
    assert stopped(signal="TERM") == (6, "term\n") and stopped(signal=15) == (6, "term\n")
    with fastctr.Container(["sh", "-c", "echo ready; exec sleep 60"], image="mine/box:1", stdout=fastctr.PIPE) as c:
        c.stdout.readline()
        began = time.monotonic()
        assert c.stop(timeout=0.2) == -9 and 0.15 < time.monotonic() - began < 5
        assert c.stop() == -9
    with fastctr.Container(["sh", "-c", script], rootfs="host", stdout=fastctr.PIPE) as c:
        c.stdout.readline()
        assert c.stop() == 6
    put(store, base, "mine/bad:1", {"StopSignal": "SIGNOPE"})
    with pytest.raises(ImageError, match="is not a signal"):
        fastctr.run(["true"], image="mine/bad:1")


def test_volumes_are_there(store, base):
    more = make_layer([entry("data/", uid=1000, mode=0o711), entry("data/file", "x")])
    put(store, base, config={"Volumes": {"/vol/new": {}, "/data": {}}}, more=[more])
    assert sh("touch /vol/new/x /data/x; cat /data/file; stat -c '%u %a' /data").endswith("x1000 711\n")
    found = sh("touch /vol/new/x /data/x; touch /x 2>/dev/null || echo ro; ls /data; stat -c '%u %a' /data", read_only=True)
    assert found.split() == ["ro", "x", "1000", "711"]
    assert sh("touch /data/x && ls /data", read_only=True, tmpfs=["/data"]) == "x\n"


def test_what_is_kept_of_the_config(store, base):
    put(store, base, config=CONFIG)
    plan = fastctr.Plan(image="mine/box:1")
    assert plan.image.config["ExposedPorts"] == {"80/tcp": {}} and plan.image.config["Labels"] == {"who": "tests"}
    assert plan.image.config["Shell"] == ["/bin/sh", "-c"] and plan.image.stop_signal == signal.SIGUSR2
    with plan.container(stdout=fastctr.PIPE, text=True) as c:
        lines = [c.stdout.readline().strip() for _ in range(5)]
        assert lines == ["from the image", "user", "/work/deep", "image image", "ready"]
        inside = c.exec(["sh", "-c", "pwd; id -un; echo $A"], stdout=fastctr.PIPE, text=True)  # no entrypoint here
        assert inside.communicate()[0].split() == ["/work/deep", "user", "image"]
        assert c.stop() == 4


def test_read_only_and_limits_go_with_it(store, base):
    put(store, base)
    done = fastctr.run(["sh", "-c", "touch /x"], image="mine/box:1", read_only=True, memory="32m", pids=20, capture_output=True)
    assert done.returncode != 0 and done.usage.memory_peak
    assert sh("touch /x && echo ok", writable="disk") == "ok\n"


# ---- finding


def test_every_way_to_say_which(store, base):
    made = put(store, base)
    digest = made.target["digest"]
    for name in ("mine/box:1", "docker.io/mine/box:1", f"mine/box@{digest}", made.config_digest, made.config_digest[7:19]):
        assert sh("echo ok", image=name) == "ok\n", name
    assert sh("echo ok", image=images.get("mine/box:1")) == "ok\n"
    with pytest.raises(SpecError, match="is not an image"):
        fastctr.run(["true"], image=3)


def test_never_and_missing(root, tmp_path, monkeypatch):
    with pytest.raises(ImageNotFound, match=r"fastctr pull nothing/here:1") as caught:
        fastctr.run(["true"], image="nothing/here:1", pull="never")
    assert "nothing/here:1: is not in the store" in str(caught.value)
    monkeypatch.chdir(tmp_path)
    os.mkdir("rootdir")
    with pytest.raises(ImageNotFound, match=r"give it as \./rootdir, or rootfs="):
        fastctr.run(["true"], image="rootdir", pull="never")
    with pytest.raises(ImageNotFound):
        fastctr.run(["true"], image="sha256:" + "0" * 64)  # an id: nowhere to be pulled from
    assert not os.path.exists(root)  # looking makes nothing


@pytest.mark.parametrize(
    ("kw", "text"),
    [
        ({"image": "/srv/root"}, 'give a directory as rootfs="/srv/root"'),
        ({"image": "./root"}, "is a path"),
        ({"image": "host"}, 'give it as rootfs="host"'),
        ({"image": ""}, "is empty"),
        ({"image": "Upper/Case"}, "must be lowercase"),
        ({"rootfs": "alpine"}, "an image is given by image="),
        ({"image": "mine/box:1", "rootfs": "host"}, "cannot go with image"),
        ({"image": "mine/box:1", "pull": "sometimes"}, "is not a policy"),
        ({"rootfs": "host", "pull": "never"}, "add image="),
        ({"image": "mine/box:1", "writable": "direct"}, "would change the image"),
        ({"image": "mine/box:1", "snapshotter": "zfs"}, "is not a snapshotter"),
    ],
)
def test_mistakes(store, base, kw, text):
    put(store, base)
    with pytest.raises(SpecError, match=text):
        fastctr.run(["true"], **kw)


def test_image_does_not_go_with_a_plan(store, base):
    put(store, base)
    with pytest.raises(SpecError, match="belongs to the plan"):
        fastctr.run(["true"], plan=fastctr.Plan(rootfs="host"), image="mine/box:1")
    with pytest.raises(SpecError, match="make a Spec of it"):
        fastctr.Spec(image="mine/box:1")


def test_another_image_of_that_name_is_seen(store, base):
    put(store, base, config={"Cmd": ["echo", "one"]})
    first = use("mine/box:1")
    assert out() == "one\n" and use("mine/box:1") is first
    put(store, base, "mine/other:1")
    assert use("mine/box:1") is first  # looked up anew, and found the same
    put(store, base, config={"Cmd": ["echo", "two"]})
    assert out() == "two\n"
    store.remove("mine/box:1", force=True)
    with pytest.raises(ImageNotFound):
        fastctr.run(image="mine/box:1", pull="never")


def test_a_warm_lookup_costs_a_stat(store, base):
    from fastctr.plan import plan_of

    put(store, base)

    def best(**kw):
        plan_of(dict(kw))
        times = []
        for _ in range(300):
            began = time.perf_counter()
            plan_of(dict(kw))
            times.append(time.perf_counter() - began)
        return min(times)

    assert best(image="mine/box:1") < best(rootfs=os.path.dirname(store.root)) * 1.5 + 20e-6


def test_platforms(store, base):
    here = MadeImage([base], {"Cmd": ["echo", "here"], "Env": ["PATH=/bin"]})
    there = MadeImage([base], {"Cmd": ["echo", "there"], "Env": ["PATH=/bin"]}, architecture="riscv64")
    Index([there, here]).put(store, "mine/box:1")
    assert out() == "here\n" and out(platform="linux/riscv64") == "there\n"  # the files are the same here
    with pytest.raises(ImageNotFound, match="s390x"):
        fastctr.run(image="mine/box:1", platform="linux/s390x", pull="never")
    with pytest.raises(SpecError, match="is not a platform"):
        fastctr.run(image="mine/box:1", platform="linux/a/b/c")


def test_root_keyword(tmp_path, base):
    other = store_at(str(tmp_path / "elsewhere"))
    put(other, base)
    assert sh("echo ok", root=other.root) == "ok\n"
    assert fastctr.Plan(image="mine/box:1", root=other.root).run(["echo", "x"], capture_output=True).stdout == b"x\n"
    assert images.Store(other.root).list()[0].tags == ["mine/box:1"]


# ---- pulling


def test_pulled_when_missing_and_always(root, base):
    one = MadeImage([base], {"Cmd": ["echo", "one"], "Env": ["PATH=/bin"]})
    two = MadeImage([base], {"Cmd": ["echo", "two"], "Env": ["PATH=/bin"]})
    with ImageServer(one) as server:
        name = f"{server.host}/mine/box:1"
        assert out(image=name) == "one\n"
        count = len(server.seen)
        assert out(image=name) == "one\n" and len(server.seen) == count
        server.image = two
        assert out(image=name, pull="missing") == "one\n"
        assert out(image=name, pull="always") == "two\n" and out(image=name) == "two\n"
        server.hook = lambda handler, *_: handler.answer(404, b"{}") or True
        with pytest.raises(ImageNotFound):
            fastctr.run(image=f"{server.host}/mine/other:1")
    assert out(image=name, pull="never") == "two\n"


def test_pull_function(root, base, capfd):
    made = MadeImage([base], {"Cmd": ["echo", "x"]})
    with ImageServer(made) as server:
        name = f"{server.host}/mine/box:1"
        events = []
        image = images.pull(name, progress=events.append)
        assert image.id == made.config_digest and image.tags == [name] and image.digest == made.target["digest"]
        assert {"resolving", "downloading", "unpacked"} <= {event.action for event in events}
        images.pull(name, progress=True)
        assert "Resolving" in capfd.readouterr().err
        count = len(server.seen)
        assert images.pull(name, policy="missing").id == image.id and len(server.seen) == count
        with pytest.raises(SpecError):
            images.pull(name, policy="perhaps")
        with pytest.raises(SpecError):
            images.pull("./here")
    assert images.pull(name, policy="never").id == image.id


# ---- the facade


def test_an_image(store, base):
    made = put(store, base, config=CONFIG, more=[make_layer({"hello": "text"})])
    image = images.get("mine/box:1")
    assert image.id == made.config_digest and image.short_id == image.id[7:19] and image.tags == ["mine/box:1"]
    assert image.digests == [f"mine/box@{made.target['digest']}"] and image.platform.startswith("linux/")
    assert image.config["User"] == "user" and image.labels == {"who": "tests"} and image.env["A"] == "image"
    assert image.entrypoint == CONFIG["Entrypoint"] and image.cmd == CONFIG["Cmd"] and image.created == 1704164645
    assert [layer.diff_id for layer in image.layers] == made.diff_ids and image.layers[0].digest == made.layers[0]
    packed = image.size
    assert packed == sum(layer.size for layer in image.layers)
    with image.mount() as path:
        assert open(f"{path}/hello").read() == "text" and os.path.exists(f"{path}/bin/busybox")
        with pytest.raises(OSError, match="Read-only"):
            open(f"{path}/new", "w")
    assert not os.path.ismount(path) and image.size > packed  # unpacked now
    steps = image.history()
    assert [step.created_by for step in steps] == ["layer 1", "layer 0"] and steps[0].id == image.id and steps[0].size == 4
    shape = image.inspect()
    assert shape["Id"] == image.id and shape["Config"]["StopSignal"] == "SIGUSR2" and shape["RootFS"]["Layers"] == made.diff_ids
    assert repr(image) == "<Image mine/box:1>" and image == images.get(image.id) and image.exists()
    image.tag("other:2")
    assert image.tags == ["mine/box:1", "other:2"] and [i.id for i in images.list("other")] == [image.id]
    assert images.list("nothing*") == [] and len(images.list("mine/*")) == 1 and len(images.list("*")) == 1
    assert images.remove("other:2") == [("Untagged", "other:2")]
    done = image.remove()
    assert done[0] == ("Untagged", "mine/box:1") and ("Deleted", image.id) in done and not image.exists()
    assert images.list() == []
    fastctr.shutdown()  # this process has looked at its files, and may do so again until now
    assert images.gc().layers and layer_dirs(store.root) == []


def test_out_and_in_again(store, base, tmp_path, root):
    put(store, base, more=[make_layer({"hello": "text"})])
    image = images.get("mine/box:1")
    for form, packed in (("docker", None), ("oci", "zstd")):
        image.save(str(tmp_path / form), format=form, compression=packed)
    images.save(["mine/box:1"], str(tmp_path / "plain"))
    for form in ("docker", "oci", "plain"):
        other = images.Store(tmp_path / f"store-{form}")
        found = other.load(str(tmp_path / form))
        assert [i.tags for i in found] == [["mine/box:1"]]
        assert sh("cat /hello", root=other.root) == "text"
        assert form == "oci" or found[0].id == image.id


def test_made_here(root, tmp_path, base):
    top = tmp_path / "tree"
    extract(io.BytesIO(base), top)
    image = images.build_rootfs(top, "mine/built:1", cmd=["echo", "built"], env={"A": "b", "PATH": "/bin"}, workdir="/w",
                                labels={"x": "y"}, changes=["STOPSIGNAL INT"])  # fmt: skip
    assert image.tags == ["mine/built:1"] and image.cmd == ["echo", "built"] and image.labels == {"x": "y"}
    assert out(image="mine/built:1") == "built\n" and sh("pwd; echo $A", image=image) == "/w\nb\n"
    again = images.import_(io.BytesIO(base), "mine/imported:1", changes=["ENV PATH=/bin", 'CMD ["echo", "imported"]'])
    assert out(image="mine/imported:1") == "imported\n" and again.history()[0].comment
    assert {i.id for i in images.list()} == {image.id, again.id}
    used = images.df()
    assert len(used.images) == 2 and used.size > 0
    assert images.fsck() == []
    images.prune(everything=True)
    assert len(images.list()) == 2  # this process's plans use them
    fastctr.shutdown()
    assert set(images.prune(everything=True).deleted) == {image.id, again.id} and images.list() == []


def test_a_kept_up_upper(store, base, tmp_path):
    """upper= above an image, without names."""
    put(store, base)
    upper = str(tmp_path / "changes")
    sh("echo kept > /file", upper=upper)
    assert sh("cat /file", upper=upper) == "kept\n" and os.path.exists(f"{upper}/file")


# ---- snapshotters


def test_vfs_is_a_copy_for_each(store, base, root):
    put(store, base)
    assert sh("touch /x; ls /x; cat /proc/self/mountinfo | grep -c overlay || true", snapshotter="vfs").split() == ["/x", "0"]
    assert sh("ls /x 2>/dev/null || echo none", snapshotter="vfs") == "none\n"

    def copies():
        return [name for name in os.listdir(f"{root}/tmp") if name.startswith("copy-")]

    with fastctr.Container(["sh", "-c", "echo mine > /x; echo ready; sleep 60"], image="mine/box:1", snapshotter="vfs",
                           stdout=fastctr.PIPE) as c:  # fmt: skip
        c.stdout.readline()
        assert len(copies()) == 1
        assert sh("ls /x 2>/dev/null || echo none", snapshotter="vfs") == "none\n" and len(copies()) == 1
        assert c.exec(["cat", "/x"], stdout=fastctr.PIPE).communicate()[0] == b"mine\n"
    assert copies() == []
    plan = fastctr.Plan(image="mine/box:1", snapshotter="vfs")
    plan.warm(2)
    assert plan.run(["sh", "-c", "touch /y"]).returncode == 0 and plan.run(["ls", "/y"], stderr=fastctr.DEVNULL).returncode == 1
    with pytest.raises(fastctr.CommandNotFound):
        plan.run(["/nowhere"])
    assert copies() == []
    assert sh("touch /x 2>/dev/null || echo ro", snapshotter="vfs", read_only=True) == "ro\n"


def test_erofs(store, base):
    put(store, base, more=[make_layer({"hello": "text"})], config={"User": "user"})
    try:
        assert sh("cat /hello; echo; id -un; echo $HOME; touch /tmp/x && ls /tmp", snapshotter="erofs").split() == [
            "text", "user", "/tmp", "x"]  # fmt: skip
    except (StoreError, fastctr.LaunchError) as error:
        pytest.skip(f"no erofs here: {error}")


# ---- leases


GC = "from fastctr import images; r = images.gc(); print(len(r.layers))"


def gc_elsewhere(root):
    done = subprocess.run([sys.executable, "-c", GC], env={**os.environ, "FASTCTR_ROOT": root}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_layers_in_use_stay_until_shutdown(store, base, root):
    put(store, base, more=[make_layer({"hello": "text"})])
    with fastctr.Container(["sh", "-c", "echo ready; read x; cat /hello"], image="mine/box:1", stdin=fastctr.PIPE,
                           stdout=fastctr.PIPE) as c:  # fmt: skip
        c.stdout.readline()
        images.remove("mine/box:1", force=True)
        assert gc_elsewhere(root) == 0 and len(layer_dirs(root)) == 2
        c.stdin.write(b"\n")
        c.stdin.close()
        assert c.stdout.read() == b"text"
    assert gc_elsewhere(root) == 0  # this process's plan has them still
    fastctr.shutdown()
    assert os.listdir(f"{root}/leases") == [] and gc_elsewhere(root) == 2 and layer_dirs(root) == []


def test_a_plan_after_shutdown(store, base, root):
    put(store, base)
    plan = fastctr.Plan(image="mine/box:1")
    plan.run(["true"])
    fastctr.shutdown()
    assert plan.run(["echo", "again"], capture_output=True).stdout == b"again\n"
    assert len(os.listdir(f"{root}/leases")) >= 1
    fastctr.shutdown()
    __import__("shutil").rmtree(f"{root}/layers/overlay")
    assert plan.run(["echo", "unpacked anew"], capture_output=True).stdout == b"unpacked anew\n"
    fastctr.shutdown()
    images.remove("mine/box:1")
    with pytest.raises(ImageNotFound, match="was removed since"):
        plan.run(["true"])


def test_kill_9_frees_them(store, base, root):
    put(store, base)
    code = "import fastctr, time; fastctr.run(['true'], image='mine/box:1'); print('up', flush=True); time.sleep(60)"
    job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "FASTCTR_ROOT": root})
    assert job.stdout.readline() == b"up\n"
    images.remove("mine/box:1", force=True)
    assert gc_elsewhere(root) == 0
    job.kill()
    job.wait()
    job.stdout.close()
    assert gc_elsewhere(root) == 1 and os.listdir(f"{root}/leases") == []
    fastctr.gc()


def test_forks(store, base, root):
    put(store, base)
    assert out(["echo", "parent"]) == "parent\n"
    held = len(os.listdir(f"{root}/leases"))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = fastctr.run(["echo", "child"], image="mine/box:1", stdout=fastctr.PIPE).stdout
            os.write(write, text + str(len(os.listdir(f"{root}/leases")) > held).encode())
            fastctr.shutdown()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"child\nTrue"
    os.close(read)
    os.close(write)
    assert len(os.listdir(f"{root}/leases")) == held
    images.remove("mine/box:1", force=True)
    assert gc_elsewhere(root) == 0  # the parent has them still


# ---- many at once


def test_many_threads_first_start(store, base, root):
    put(store, base, more=[make_layer({f"file{i}": "x" * i for i in range(50)})])
    results = []

    def one():
        results.append(fastctr.run(["sh", "-c", "ls /file49 && echo ok"], image="mine/box:1", capture_output=True).stdout)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"/file49\nok\n"] * 8 and len(layer_dirs(root)) == 2


def test_a_slow_pull_is_in_nobodys_way(store, base):
    put(store, base)
    go = threading.Event()
    with ImageServer(MadeImage([base], {"Cmd": ["true"], "Env": ["PATH=/bin"]}), lambda *_: go.wait(20) and False) as server:
        slow = threading.Thread(target=fastctr.run, kwargs={"image": f"{server.host}/mine/slow:1"})
        slow.start()
        assert sh("echo ok") == "ok\n" and slow.is_alive()
        go.set()
        slow.join()


def test_many_processes_first_start(store, base, root):
    put(store, base)
    code = "import fastctr; print(fastctr.run(['echo', 'ok'], image='mine/box:1', capture_output=True, text=True).stdout)"
    env = {**os.environ, "FASTCTR_ROOT": root}
    jobs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) for _ in range(4)]
    assert [job.communicate()[0].strip() for job in jobs] == [b"ok"] * 4
    assert len(layer_dirs(root)) == 1 and images.fsck() == []


def test_a_read_only_store(store, base, root):
    """As one on a shared disk: used as it is, with nothing written."""
    put(store, base)
    assert out(["echo", "x"]) == "x\n"
    fastctr.shutdown()
    subprocess.run(["mount", "--bind", root, root], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
        use.__globals__["_uses"].clear()
        assert out(["echo", "read-only"]) == "read-only\n"
        fastctr.shutdown()
    finally:
        subprocess.run(["umount", root], check=True)
