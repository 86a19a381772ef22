"""`fastctr` and images for real: verbs, what they print, exit codes, kept containers, the terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tarfile
import time

import pytest

pytest.importorskip("fastctr._core")
from fastctr.image.store import get as store_at
from image_fixtures import base, root  # noqa: F401
from image_support import Image as MadeImage
from image_support import entry, make_layer
from registry_support import PASSWORD, USER, ImageServer, Running, private  # noqa: F401

pytestmark = [pytest.mark.needs_root, pytest.mark.usefixtures("private")]
FASTCTR = [sys.executable, "-m", "fastctr"]


def cli(*args, **kw):
    kw.setdefault("capture_output", True)
    if "input" not in kw:
        kw.setdefault("stdin", subprocess.DEVNULL)
    kw.setdefault("text", True)
    return subprocess.run([*FASTCTR, *args], timeout=60, check=False, **kw)


def ok(*args, **kw):
    done = cli(*args, **kw)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def box(root, base):
    """mine/box:1 in a store of this test's own."""
    config = {"Cmd": ["echo", "from the image"], "Env": ["PATH=/bin", "A=image"], "WorkingDir": "/work"}
    return MadeImage([base, make_layer({"hello": "text\n"})], config).put(store_at(root), "mine/box:1")


# ---- run


def test_run_by_image(box, root, tmp_path):
    assert ok("run", "mine/box:1") == "from the image\n"
    script = "echo $A; pwd; id -un"
    assert ok("run", "mine/box:1", "sh", "-c", script).split() == ["image", "/work", "root"]
    found = ok("run", "-e", "A=given", "-w", "/other", "-u", "user", "mine/box:1", "--", "sh", "-c", script)
    assert found.split() == ["given", "/other", "user"]
    assert ok("run", "--entrypoint", "pwd", "mine/box:1") == "/work\n"
    assert ok("run", "--entrypoint", "echo", "mine/box:1", "x", "-y") == "x -y\n"
    assert ok("run", "--rm", "-q", box.config_digest[7:19], "cat", "/hello") == "text\n"
    assert ok("run", "--read-only", "--snapshotter", "vfs", "mine/box:1", "cat", "/hello") == "text\n"
    assert ok("--root", root, "container", "run", "mine/box:1") == "from the image\n"
    assert os.listdir(f"{root}/containers") == [] and os.listdir(f"{root}/leases") == []


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["mine/box:1", "sh", "-c", "exit 7"], 7, ""),
        (["mine/box:1", "no-such-command"], 127, "no-such-command"),
        (["mine/box:1", "/hello"], 126, "/hello"),
        (["--pull", "never", "not/here"], 125, "fastctr: not/here: is not in the store"),
        (["--pull", "perhaps", "mine/box:1"], 125, "use missing, never or always"),
        (["Upper", "ls"], 125, "must be lowercase"),
        (["/nowhere", "ls"], 125, "does not exist"),
        (["-m", "lots", "mine/box:1"], 125, "--memory"),
        (["--writable", "direct", "mine/box:1"], 125, "--writable: \"direct\" would change the image itself"),
        (["--platform", "linux/s390x", "--pull", "never", "mine/box:1"], 125, "is for linux/"),
    ],
)
def test_run_exit_codes(box, args, code, text):
    done = cli("run", *args)
    assert done.returncode == code and text in done.stderr, done.stderr


def test_a_directory_is_named_as_one(box, tmp_path):
    os.mkdir(tmp_path / "tree")
    done = cli("run", "--pull", "never", "tree", "ls", cwd=tmp_path)
    assert done.returncode == 125 and "give it as ./tree" in done.stderr


def test_run_pulls(root, base):
    with ImageServer(MadeImage([base], {"Cmd": ["echo", "pulled"], "Env": ["PATH=/bin"]})) as server:
        name = f"{server.host}/mine/box:1"
        done = cli("run", name)
        assert done.stdout == "pulled\n" and f"Unable to find image '{name}' locally" in done.stderr
        assert "Downloading" in done.stderr
        assert (cli("run", name).stderr, cli("run", "--pull", "never", name).returncode) == ("", 0)
        again = cli("run", "--pull", "always", "-q", name)
        assert again.stdout == "pulled\n" and again.stderr == ""
        done = cli("run", f"{server.host}/mine/box@sha256:" + "0" * 64)
        assert done.returncode == 125 and "\nfastctr: " in done.stderr


def test_the_stop_signal_at_the_timeout(root, base):
    MadeImage([base], {"Env": ["PATH=/bin"], "StopSignal": "USR1"}).put(store_at(root), "mine/box:1")
    script = "trap 'echo usr1; exit 3' USR1; while :; do sleep 0.05; done"
    done = cli("run", "--timeout", "500ms", "mine/box:1", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (124, "usr1\n")


def test_another_architecture(root, base):
    MadeImage([base], {"Cmd": ["echo", "x"], "Env": ["PATH=/bin"]}, architecture="riscv64").put(store_at(root), "mine/box:1")
    done = cli("run", "mine/box:1")
    assert done.stdout == "x\n" and "warning: the image is for riscv64" in done.stderr


# ---- images


def test_images_table(box, root):
    lines = ok("images").splitlines()
    assert lines[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert lines[1].split()[:3] == ["mine/box", "1", box.config_digest[7:19]] and lines[1].endswith("B")
    assert ok("tag", "mine/box:1", "other") == ""
    assert ok("images", "-q") == box.config_digest[7:19] + "\n" and ok("images", "-q", "--no-trunc") == box.config_digest + "\n"
    assert ok("images", "--format", "{{.Repository}}:{{.Tag}}").split() == ["other:latest", "mine/box:1"]
    assert json.loads(ok("images", "mine/box", "--format", "json"))["ID"] == box.config_digest[7:19]
    assert box.target["digest"] in ok("image", "ls", "--digests")
    assert ok("images", "nope") == lines[0] + "\n" or ok("images", "nope").count("\n") == 1
    assert ok("images", "-q", "-f", "reference=oth*") and not ok("images", "-q", "-f", "dangling=true")
    assert cli("images", "-f", "colour=red").returncode == 125 and cli("images", "--format", "{{.Nope}}").returncode == 125
    assert ok("rmi", "other") == "Untagged: other:latest\n"


def test_filters(root, base):
    store = store_at(root)
    MadeImage([base], {"Labels": {"k": "v"}}, created="2020-01-01T00:00:00Z").put(store, "old:1")
    MadeImage([base], {}, created="2022-01-01T00:00:00Z").put(store, "new:1")
    MadeImage([base], {"User": "1"}, created="2023-01-01T00:00:00Z").put(store, None)

    def names(*args):
        return ok("images", "--format", "{{.Repository}}", *args).split()

    assert names("-f", "label=k=v") == ["old"] and names("-f", "label=k") == ["old"] and names("-f", "label=k=w") == []
    assert names("-f", "before=new:1") == ["old"] and names("-f", "since=new:1") == ["<none>"]
    assert names("-f", "dangling=true") == ["<none>"] and names("-f", "dangling=false") == ["new", "old"]
    assert "deleted: sha256:" in ok("image", "prune", "-f") and names() == ["new", "old"]
    assert "untagged: old:1" in ok("image", "prune", "-a", "-f", "--filter", "label=k") and names() == ["new"]
    ok("image", "prune", "-af", "--filter", "until=24h")
    assert names() == []


def test_inspect_and_history(box):
    found = json.loads(ok("inspect", "mine/box:1"))
    assert found[0]["Id"] == box.config_digest and found[0]["RepoTags"] == ["mine/box:1"]
    assert ok("inspect", "-f", "{{.Config.WorkingDir}} {{json .Config.Cmd}}", "mine/box:1") == '/work ["echo","from the image"]\n'
    done = cli("inspect", "mine/box:1", "nope")
    assert done.returncode == 1 and "no such object: nope" in done.stderr and len(json.loads(done.stdout)) == 1
    assert "no such image: nope" in cli("image", "inspect", "nope").stderr
    assert cli("inspect", "-f", "{{.Id", "mine/box:1").returncode == 125
    lines = ok("history", "mine/box:1").splitlines()
    assert lines[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"] and len(lines) == 3
    assert lines[1].startswith(box.config_digest[7:19]) and lines[2].startswith("<missing>")
    assert ok("history", "-q", "--no-trunc", "mine/box:1").split() == [box.config_digest, "<missing>"]
    assert ok("history", "--format", "{{.CreatedBy}}", "-H=false", "mine/box:1").splitlines() == ["layer 1", "layer 0"]


def test_rmi(box, root):
    ok("tag", "mine/box:1", "two:2")
    done = cli("rmi", box.config_digest)
    assert done.returncode == 1 and "must be forced" in done.stderr
    done = cli("rmi", "nope", "two:2", "nope2")
    assert done.returncode == 1 and done.stdout == "Untagged: two:2\n" and done.stderr.count("\n") == 2
    lines = ok("rmi", "-f", box.config_digest[7:19]).splitlines()
    assert lines[0] == "Untagged: mine/box:1" and f"Deleted: {box.config_digest}" in lines
    assert ok("images", "-q") == "" and os.listdir(f"{root}/blobs/sha256") == []


def test_save_load_export_import(box, root, tmp_path, monkeypatch):
    file = str(tmp_path / "box.tar")
    assert ok("save", "-o", file, "mine/box:1") == "" and "manifest.json" in tarfile.open(file).getnames()
    data = cli("save", "mine/box:1", "--format", "oci", text=False).stdout
    monkeypatch.setenv("FASTCTR_ROOT", str(tmp_path / "second"))
    assert ok("load", "-q", "-i", file) == "Loaded image: mine/box:1\n"
    assert ok("rmi", "mine/box:1")
    done = cli("load", input=data, text=False)
    assert b"Loaded image: mine/box:1" in done.stdout, done.stderr
    assert ok("run", "--name", "one", "mine/box:1", "sh", "-c", "echo more > /more") == ""
    ok("export", "-o", str(tmp_path / "files.tar"), "one")
    names = tarfile.open(tmp_path / "files.tar").getnames()
    assert {"more", "hello", "bin/busybox"} <= {name.removeprefix("./").rstrip("/") for name in names}
    id_ = ok("import", "-m", "note", "-c", "CMD cat /more", "-c", "ENV PATH=/bin", str(tmp_path / "files.tar"), "flat:1").strip()
    assert id_.startswith("sha256:") and ok("run", "flat:1") == "more\n" and "note" in ok("history", "flat:1")
    piped = cli("import", "-", "piped", input=open(tmp_path / "files.tar", "rb").read(), text=False)
    assert piped.returncode == 0 and ok("run", "piped", "cat", "/more") == "more\n"
    for bad in (["import", "/nowhere.tar"], ["load", "-i", "/nowhere"], ["save", "nope"], ["export", "nope"]):
        done = cli(*bad)
        assert done.returncode == 1 and done.stderr.startswith("fastctr: "), done.stderr
    assert cli("save", "--format", "zip", "flat:1").returncode == 125


def test_build_rootfs(root, rootfs):
    id_ = ok("image", "build-rootfs", "-c", "CMD cat /etc/marker", "--compression", "zstd", rootfs, "mine/built").strip()
    assert ok("run", "mine/built") == "from the image\n" and ok("images", "-q", "--no-trunc").strip() == id_
    done = cli("image", "build-rootfs", "/nowhere", "x")
    assert done.returncode == 1 and "/nowhere: is not a directory" in done.stderr
    done = cli("image", "build-rootfs", "-c", "RUN x", rootfs, "x")
    assert done.returncode == 1 and done.stderr.startswith("fastctr: --change: ")


def test_mount_fsck_df_prune(box, root):
    assert ok("image", "mount", "mine/box:1", "cat", "hello") == "text\n"
    assert cli("image", "mount", "mine/box:1", "sh", "-c", "exit 3").returncode == 3
    assert ok("image", "fsck") == "clean\n" and ok("image", "fsck", "-q") == ""
    lines = ok("system", "df").splitlines()
    assert [line.split()[0] for line in lines] == ["TYPE", "Images", "Containers", "Unfinished"]
    assert "mine/box" in ok("system", "df", "-v") and ok("system", "df", "--format", "{{.Type}}").split()[0] == "Images"
    blob = f"{root}/blobs/sha256/{box.layers[0][7:]}"
    with open(blob, "r+b") as file:
        file.write(b"broken")
    done = cli("image", "fsck")
    assert done.returncode == 1 and box.layers[0] in done.stdout
    cli("image", "fsck", "--repair")
    assert not os.path.exists(blob)
    assert cli("system", "prune").returncode == 125  # no terminal to ask on
    assert "Total reclaimed space" in ok("system", "prune", "-a", "-f")
    assert os.listdir(f"{root}/layers/overlay") == []


# ---- registries


def test_pull_and_push_in_a_pipe(root, base, tmp_path):
    made = MadeImage([base], {"Cmd": ["echo", "x"], "Env": ["PATH=/bin"]})
    with Running(tmp_path / "registry") as registry:
        made.put(store_at(root), "mine/box:1")
        name = f"{registry.host}/mine/box:1"
        ok("tag", "mine/box:1", name)
        pushed = ok("push", name)
        assert f"The push refers to repository [{registry.host}/mine/box]" in pushed
        assert f"1: digest: {made.target['digest']} size: {made.target['size']}" in pushed
        ok("rmi", name, "mine/box:1")
        lines = ok("pull", name).splitlines()
        assert lines[-3:] == [f"Digest: {made.target['digest']}", f"Status: Downloaded newer image for {name}", name]
        assert len(lines) < 12 and any("Downloading" in line for line in lines)
        assert f"Status: Image is up to date for {name}" in ok("pull", name)
        assert ok("pull", "-q", name) == name + "\n" and ok("push", "-q", name) == name + "\n"
        assert ok("pull", "--all-tags", name.rpartition(":")[0]).endswith(f"{registry.host}/mine/box\n")
        assert cli("pull", "-a", name).returncode == 125
        done = cli("pull", f"{registry.host}/mine/nothing")
        assert done.returncode == 1 and done.stderr.startswith("fastctr: "), done.stderr
    for word in ("host", "/srv", "Upper"):
        assert cli("pull", word).returncode == 1


def on_terminal(args, keys=b""):
    """Run on a pseudo terminal; (exit code, what it showed)."""
    master, slave = pty.openpty()
    job = subprocess.Popen([*FASTCTR, *args], stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    if keys:
        time.sleep(0.5)
        os.write(master, keys)
    shown = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(master)
    return job.wait(), shown.decode(errors="replace")


def test_pull_on_a_terminal(root, base):
    pytest.importorskip("rich")
    with ImageServer(MadeImage([base], {})) as server:
        code, shown = on_terminal(["pull", f"{server.host}/mine/box:1"])
        assert code == 0 and "\x1b[" in shown and "Status: Downloaded newer image" in shown
        code, shown = on_terminal(["pull", "-q", f"{server.host}/mine/box:1"])
        assert code == 0 and shown.split() == [f"{server.host}/mine/box:1"]


def test_prompts(box, root):
    code, shown = on_terminal(["system", "prune"], b"n\n")
    assert code == 0 and "[y/N]" in shown and ok("images", "-q")
    code, shown = on_terminal(["image", "prune", "-a"], b"y\n")
    assert code == 0 and "untagged: mine/box:1" in shown and ok("images", "-q") == ""
    code, shown = on_terminal(["save", "mine/box:1"])
    assert code == 125 and "refusing" in shown


def test_login(root, base, tmp_path):
    with Running(tmp_path / "registry", auth="htpasswd") as registry:
        name = f"{registry.host}/mine/box:1"
        MadeImage([base], {}).put(store_at(root), name)
        done = cli("push", name)
        assert done.returncode == 1 and "fastctr: " in done.stderr
        done = cli("login", "-u", USER, "--password-stdin", registry.host, input="wrong\n")
        assert done.returncode == 1 and "Login Succeeded" not in done.stdout
        done = cli("login", "-u", USER, "--password-stdin", registry.host, input=PASSWORD + "\n")
        assert (done.returncode, done.stdout) == (0, "Login Succeeded\n")
        assert cli("push", name).returncode == 0
        assert ok("logout", registry.host) == f"Removing login credentials for {registry.host}\n"
        assert ok("logout", registry.host) == f"Not logged in to {registry.host}\n"
        assert cli("push", name).returncode == 1
        done = cli("login", "-u", USER, "-p", PASSWORD, registry.host)
        assert done.returncode == 0 and "insecure" in done.stderr
        assert cli("login", registry.host).returncode == 125


# ---- kept containers


def test_kept_containers(box, root):
    assert ok("run", "--name", "one", "mine/box:1", "sh", "-c", "echo kept >> /file; cat /file; rm /hello; exit 0") == "kept\n"
    assert cli("run", "--name", "two", "mine/box:1", "sh", "-c", "exit 5").returncode == 5
    assert ok("ps").count("\n") == 1
    lines = ok("ps", "-a").splitlines()
    assert lines[0].split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]
    assert "Exited (5)" in lines[1] and lines[1].endswith("two") and "Exited (0)" in lines[2] and lines[2].endswith("one")
    ids = ok("ps", "-aq").split()
    assert len(ids) == 2 and ok("ps", "-a", "--format", "{{.Names}} {{.State}}").split() == ["two", "exited", "one", "exited"]
    assert ok("ps", "-aq", "-f", "name=one") == ids[1] + "\n" and ok("ps", "-lq") == ids[0] + "\n"
    assert ok("ps", "-q", "-f", "exited=5") == ids[0] + "\n" and ok("ps", "-aq", "-f", "ancestor=nope") == ""
    done = cli("run", "--name", "one", "mine/box:1")
    assert done.returncode == 125 and 'container name "/one" is already in use' in done.stderr
    assert {"A /file", "D /hello"} <= set(ok("diff", "one").splitlines())
    assert ok("start", "-a", "one") == "kept\nkept\n" and cli("start", "-a", "two").returncode == 5
    assert cli("start", "one").returncode == 125 and cli("start", "-a", "nope").returncode == 1
    found = json.loads(ok("inspect", ids[0]))[0]
    assert found["Name"] == "/two" and found["State"]["ExitCode"] == 5 and found["Image"] == box.config_digest
    assert json.loads(ok("container", "inspect", "one"))[0]["State"]["Status"] == "exited"
    done = cli("rmi", "mine/box:1")
    assert done.returncode == 1 and "uses the image" in done.stderr
    assert "untagged" not in ok("image", "prune", "-a", "-f") and ok("start", "-a", "one").count("kept") == 3
    assert ok("rm", "one", ids[0]) == f"one\n{ids[0]}\n"
    assert cli("rm", "one").returncode == 1 and cli("rm", "-f", "one").returncode == 0
    assert os.listdir(f"{root}/containers") == []
    assert ok("run", "--rm", "--name", "three", "mine/box:1") == "from the image\n" and ok("ps", "-aq") == ""
    ok("rmi", "mine/box:1")


def test_one_name_for_one(box):
    jobs = [subprocess.Popen([*FASTCTR, "run", "--name", "same", "mine/box:1", "true"], stderr=subprocess.PIPE) for _ in range(4)]
    errors = [job.communicate()[1] for job in jobs]
    assert sorted(job.returncode for job in jobs) == [0, 125, 125, 125], errors
    assert ok("ps", "-aq").count("\n") == 1


def test_a_running_one(box, root, tmp_path):
    job = subprocess.Popen(
        [*FASTCTR, "run", "--name", "live", "mine/box:1", "sh", "-c", "echo new > /file; echo up; sleep 60"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert job.stdout.readline() == "up\n"
        assert "Up " in ok("ps") and ok("ps", "-q", "-f", "status=running")
        assert cli("rm", "live").returncode == 1 and cli("start", "-a", "live").returncode == 1
        assert "A /file" in ok("diff", "live").splitlines()
        assert json.loads(ok("inspect", "live"))[0]["State"]["Pid"] > 0
        (tmp_path / "put").write_text("put\n")
        ok("cp", str(tmp_path / "put"), "live:/tmp/put")
        ok("cp", "live:/file", str(tmp_path / "got"))
        assert (tmp_path / "got").read_text() == "new\n"
        assert ok("commit", "-m", "half way", "live", "snap:1").startswith("sha256:")
        assert ok("run", "snap:1", "cat", "/tmp/put", "/file") == "put\nnew\n"
        data = cli("export", "live", text=False).stdout
        assert b"tmp/put" in data
        assert cli("container", "prune", "-f").stdout == "Total reclaimed space: 0B\n"
        began = time.monotonic()
        assert ok("rm", "-f", "live") == "live\n" and time.monotonic() - began < 15
        assert job.wait(20) == 137
    finally:
        job.kill()
        job.wait()
        job.stdout.close()
    assert ok("ps", "-aq") == ""


def test_a_killed_runner_leaves_a_kept_container(box, root):
    job = subprocess.Popen(
        [*FASTCTR, "run", "--name", "dead", "mine/box:1", "sh", "-c", "echo x > /file; echo up; sleep 60"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stdout.readline() == "up\n"
    job.send_signal(signal.SIGKILL)
    job.wait()
    job.stdout.close()
    assert "Exited (137)" in ok("ps", "-a") and "A /file" in ok("diff", "dead")
    ok("gc", "-q")
    assert "Deleted Containers" in ok("container", "prune", "-f") and ok("ps", "-aq") == ""
    assert ok("image", "fsck", "--repair") in ("clean\n",) or ok("image", "fsck") == "clean\n"


def test_copies(box, tmp_path):
    assert cli("run", "--name", "one", "mine/box:1", "true").returncode == 0
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("in\n")
    ok("cp", str(tree), "one:/into")
    ok("cp", str(tree) + "/.", "one:/tmp")
    assert ok("start", "-a", "one") == ""
    ok("cp", "one:/into", str(tmp_path / "back"))
    assert (tmp_path / "back/sub/file").read_text() == "in\n"
    data = cli("cp", "one:/tmp/sub/file", "-", text=False).stdout
    assert b"in\n" in data and b"ustar" in data
    assert cli("cp", "-", "one:/work", input=data, text=False).returncode == 0
    ok("cp", "one:/work/file", str(tmp_path / "again"))
    assert (tmp_path / "again").read_text() == "in\n"
    for args in (["a", "b"], ["one:/a", "one:/b"], ["one:", "x"]):
        assert cli("cp", *args).returncode == 125
    for args in (["one:/nope", "x"], ["nope:/a", "x"], ["/nowhere", "one:/"]):
        done = cli("cp", *args)
        assert done.returncode == 1 and done.stderr.startswith("fastctr: "), done.stderr


def test_commit(root, base):
    more = make_layer([entry("data/", mode=0o755), entry("data/a", "a")])
    config = {"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["true"], "Env": ["PATH=/bin", "A=1", "B=1"], "User": "root"}
    MadeImage([base, more], config).put(store_at(root), "mine/box:1")
    assert cli("run", "--name", "one", "-e", "B=2", "-w", "/data", "mine/box:1", "rm a; echo b > b").returncode == 0
    ok("commit", "-a", "someone", "-c", "LABEL x=y", "-c", "ENV C=3", "one", "made:1")
    assert ok("run", "made:1", "ls; echo $A $B $C; pwd").split() == ["b", "1", "2", "3", "/data"]
    found = json.loads(ok("inspect", "made:1"))[0]
    assert found["Author"] == "someone" and found["Config"]["Labels"] == {"x": "y"} and len(found["RootFS"]["Layers"]) == 3
    assert found["Config"]["Entrypoint"] == ["/bin/sh", "-c"] and found["Config"]["Cmd"] == ["rm a; echo b > b"]
    assert ok("commit", "one").startswith("sha256:") and cli("commit", "nope").returncode == 1
    done = cli("commit", "-c", "FROM x", "one")
    assert done.returncode == 1 and "--change" in done.stderr


def test_kept_of_a_directory(root, rootfs, tmp_path):
    assert ok("run", "--name", "dir", rootfs, "sh", "-c", "echo x > /srv/x; echo done") == "done\n"
    assert "A /srv/x" in ok("diff", "dir") and rootfs in ok("ps", "-a", "--no-trunc")
    assert ok("start", "-a", "dir") == "done\n"
    done = cli("commit", "dir")
    assert done.returncode == 1 and "use export and import" in done.stderr
    ok("cp", "dir:/srv/x", str(tmp_path / "x"))
    assert (tmp_path / "x").read_text() == "x\n"
    data = cli("export", "dir", text=False).stdout
    assert cli("import", "-", "flat", input=data, text=False).returncode == 0
    assert ok("run", "flat", "/bin/cat", "/srv/x") == "x\n"
    assert cli("run", "--name", "dir", "--upper", str(tmp_path / "u"), rootfs, "true").returncode == 125
    assert not os.path.exists(f"{rootfs}/srv/x")
    ok("rm", "dir")


def test_options_of_a_kept_one_stay(box, root, tmp_path):
    (tmp_path / "file").write_text("content\n")
    (tmp_path / "vol").mkdir()
    args = ["--name", "one", "-e", "X=1", "-e", "OURS", "-w", "/w", "-m", "64m", "--file", "/put=file", "-v", "./vol:/vol"]
    script = "echo $X $OURS; pwd; cat /put; touch /vol/t"
    first = ok("run", *args, "mine/box:1", "sh", "-c", script, cwd=tmp_path, env={**os.environ, "OURS": "ours"})
    assert first == "1 ours\n/w\ncontent\n"
    (tmp_path / "file").write_text("changed\n")
    assert ok("start", "-a", "one", cwd="/") == first
    assert "vol" not in ok("diff", "one").replace("A /vol\n", "") and "/put" not in ok("diff", "one")
    ok("rm", "one")


def test_start_that_fails(box, root):
    assert cli("run", "--name", "bad", "mine/box:1", "no-such-command").returncode == 127
    assert "Created" in ok("ps", "-a")
    assert ok("rm", "bad") == "bad\n"
    assert cli("run", "--name", "bad", "-m", "lots", "mine/box:1").returncode == 125 and ok("ps", "-aq") == ""
    assert cli("run", "--name", "b", "mine/box:1").returncode == 125 and cli("run", "--name", "b/d", "mine/box:1").returncode == 125


def test_speed_beside_host(box):
    """An image on disk costs a start little: counted in modules, since times differ from machine to machine."""
    code = (
        "import sys; from fastctr.cli import main; main(['run', {!r}, 'true']); "
        "print(*[m for m in sys.modules if m.startswith('fastctr')], sep=chr(10)); print('json' in sys.modules, 're' in sys.modules)"
    )
    cli("run", "mine/box:1", "true")
    seen = {}
    for what in ("host", "mine/box:1"):
        done = subprocess.run([sys.executable, "-c", code.format(what)], capture_output=True, text=True, check=True)
        lines = done.stdout.split("\n")
        seen[what] = set(lines[:-2])
        assert lines[-2] == "False False", what
    assert seen["mine/box:1"] - seen["host"] <= {
        "fastctr.cli.run_image", "fastctr.from_image", "fastctr.image_args", "fastctr.image", "fastctr.image.leases",
        "fastctr.image.locks"}  # fmt: skip
