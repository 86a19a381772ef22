"""The parts of the throughput benchmarks: what they count, what they draw, and that every bar gets its figure."""
from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from bench import bars, dask, machine, plot, report, throughput_report
from bench import throughput_scenarios as scenarios
from bench.peers import PeerFailed, Side
from bench.throughput_scenarios import SCENARIOS, Many
from bench.throughput_sides import ManyStage, missing
from bench.throughput_worker import job_file

as_root = pytest.mark.skipif(bool(machine.complaint()), reason=machine.complaint())
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def stage():
    with ManyStage() as made:
        yield made


# ---- the plots


def elements(text, name):
    return list(ET.fromstring(text).iter(SVG + name))


def words(text):
    return [element.text for element in elements(text, "text")]


def points(polyline):
    return [tuple(float(part) for part in pair.split(",")) for pair in polyline.get("points").split()]


def test_latency_plot():
    text = plot.latency({"Pool": [100.0, 200.0, 400.0], "crun run": [9_000.0, 12_000.0, 31_000.0]})
    assert {"Pool", "crun run", "100 µs", "1 ms", "10 ms", "0 %", "100 %", "time (logarithmic)"} <= set(words(text))
    lines = [points(line) for line in elements(text, "polyline")]
    assert len(lines) == 4, "a curve and its place in the legend, of each"
    (x0, y0), (x1, y1), (x2, y2) = lines[0]
    assert y0 > y1 > y2 and x1 - x0 == pytest.approx(x2 - x1, abs=0.2), "the double is as far again on a log axis"
    assert all(0 <= x <= plot.WIDTH and 0 <= y <= plot.HEIGHT for line in lines for x, y in line)


def test_rate_plot():
    text = plot.rate({"bare busybox": [[1, 2000.0], [2, 4000.0], [16, 4400.0]], "dockerd": [[1, 3.0], [2, 5.0]],
                      "<another>": [[1, 7.0], [16, 7.0]]})
    assert {"1", "2", "16", "10", "100", "1,000", "threads", "<another>"} <= set(words(text))
    assert len(elements(text, "circle")) == 7
    colours = [line.get("stroke") for line in elements(text, "polyline")]
    assert len(set(colours)) == 3


def test_a_side_looks_the_same_everywhere():
    assert plot.styles(["crun run", "Pool"]) == plot.styles(["Pool", "crun run"])[::-1]
    assert len(set(plot.STYLES.values()) | set(plot.OTHERS)) == len(plot.STYLES) + len(plot.OTHERS)
    assert len(plot.styles([f"side {number}" for number in range(7)])) == 7


@pytest.mark.parametrize(("values", "limits"), [([130, 900], (100, 1000)), ([1.0, 10.0], (1, 10)), ([2.5, 44], (2, 50)),
                                                ([7, 7], (5, 10)), ([0.03, 0.3], (0.02, 0.5))])
def test_limits_of_an_axis(values, limits):
    assert plot.decades(values) == pytest.approx(limits)


def test_times_have_units():
    assert [plot.time_words(us) for us in (10, 1000, 1e5, 1e6)] == ["10 µs", "1 ms", "100 ms", "1 s"]


# ---- the scenarios, with sides that answer at once


class Answers(Side):
    """A side that answers what its command says it can: SPEED times 100 µs a start."""

    def __init__(self, name, speed):
        super().__init__(name, [])
        self.us = 100.0 * speed

    def _ask(self, request):
        verb, *rest = request.split()
        if verb in ("go", "fill"):
            return [f"{self.us}"] * int(rest[0])
        if verb == "rate":
            return [f"{int(float(rest[1]) * 1e6 / self.us) + 1} {rest[1]}"]
        if verb == "first":
            return ["{} {} {} {} {}".format(*(self.us * n for n in (1, 2, 3, 4, 5)))] * int(rest[0]) \
                if self.name == "pool" else [f"{self.us} {self.us * 2}"] * int(rest[0])
        if verb == "jobs":
            return [f"{at * self.us / 1e6}" for at in range(int(rest[2]), int(rest[1]) + 1, int(rest[2]))]
        if verb == "batch":
            return [f"{int(rest[0]) * self.us / 1e6} 20.0"]
        if verb == "map":
            return [f"{int(rest[0]) * self.us / 1e6}"]
        return ["1.0"] if verb == "kernel" else []


class Pretended:
    """In place of a stage."""

    rootfs = "/nowhere"

    def __init__(self):
        self.speed = {"bare tiny": 1, "bare busybox": 4, "Pool": 8, "Slots": 5, "Resident": 4.5, "crun run": 120,
                      "runc run": 300, "bwrap": 60, "podman run": 1500, "dockerd": 2000}

    def side(self, name):
        return Answers(name, self.speed.get(name, 2))

    def bare(self, binary):
        return self.side(f"bare {binary}")

    def ours(self, name, kind, argv="/bin/true", **options):
        return self.side(name)

    def program(self, name, argv):
        return self.side(name)

    def runtime(self, name, threads=8):
        return self.side(f"{name} run")

    def bwrap(self):
        return self.side("bwrap")

    def podman(self):
        return self.side("podman run")

    def docker(self):
        return self.side("dockerd")

    def cold_numpy(self):
        return self.side(scenarios.COLD)

    def dask(self, tasks, turns):
        return {dask.BASE: {"rates": [500.0], "ratio": 1.0}, dask.USUAL: {"rates": [450.0], "ratio": 0.9},
                dask.ONE: {"rates": [300.0], "ratio": 0.6}}

    def batch_command(self, path, *options):
        return 20.0, 0


@pytest.fixture
def found(monkeypatch):
    """What all the scenarios find when everything is there."""
    monkeypatch.setattr(scenarios, "missing", lambda kind: "")
    monkeypatch.setattr(scenarios, "SETTLE", 0)
    monkeypatch.setattr(scenarios, "settled", lambda seconds: dict.fromkeys(scenarios.KB, 1000))
    many = Many(Pretended(), smoke=True)
    return {part: figures for scenario in SCENARIOS.values() for part, figures in scenario(many)}


def test_every_bar_has_a_figure(found):
    judged = bars.judge(found, throughput_report.BARS)
    assert [row["text"] for row in judged if row["verdict"] == "not measured"] == []
    assert set(found) == set(throughput_report.TITLES)


def test_rates_and_ratios(found):
    got = found["sustained_busybox"]
    assert got["rates"]["bare busybox"] == pytest.approx(2500)
    assert got["ratios"]["Pool / bare busybox"] == pytest.approx(0.5)
    assert got["ratios"]["Pool, last part / first"] == pytest.approx(1)
    assert got["ratios"]["Pool / crun run"] == pytest.approx(15, rel=0.05)
    assert found["warm"]["ratios"]["first instruction, pool.run / bare"] == pytest.approx(2)
    assert found["warm"]["ratios"]["exit seen, pool.run / bare"] == pytest.approx(2)
    assert found["dask"]["ratios"] == {f"{dask.USUAL} / {dask.BASE}": 0.9, f"{dask.ONE} / {dask.BASE}": 0.6}


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(scenarios, "missing", lambda kind: "fastctr.gone")
    monkeypatch.setattr(Pretended, "ours", lambda *args, **options: None)
    many = Many(Pretended(), smoke=True)
    for name in ("warm", "sustained", "numpy", "alive", "batch", "dask"):
        for part, figures in SCENARIOS[name](many):
            assert "Not measured" in figures["note"] and "fastctr.gone" in figures["note"], part
            assert throughput_report.scenario(part, figures)


def test_a_peer_that_does_not_start_is_left_out():
    class Broken(Answers):
        def _ask(self, request):
            raise PeerFailed("dockerd: it has no room")

    many = Many(Pretended(), smoke=True)
    assert [side.name for side in many.there(Broken("dockerd", 1), Answers("Pool", 1), None)] == ["Pool"]
    assert many.said == ["Not measured: dockerd: it has no room"]


# ---- the page


def test_page_and_plots(found, tmp_path, monkeypatch):
    run = {"smoke": False, "machine": {"memory": "8 GB"}, "notes": [], "scenarios": {}, "bars": []}
    many = {**run, "notes": ["a note"], "scenarios": found, "bars": bars.judge(found, throughput_report.BARS)}
    paths = [tmp_path / name for name in ("run.json", "images.json", "many.json")]
    for path, results in zip(paths, (run, {**run, "images": {}}, many), strict=True):
        path.write_text(json.dumps(results))
    monkeypatch.setattr("sys.argv", ["report", str(paths[0]), str(tmp_path / "page.md"), *map(str, paths[1:])])
    assert report.main() == 0
    page = (tmp_path / "page.md").read_text()
    part = page[page.index("## Thousands of jobs"):]
    assert part.index("Caveats first") < part.index("What each side sets up for a job") < part.index("The bars")
    for name in ("latency.svg", "rate.svg"):
        assert f"]({name})" in part
        ET.parse(tmp_path / name)
    assert all(f"#### {title}" in part for title in throughput_report.TITLES.values())
    assert "- a note" in part and "not measured" not in part


def test_tables_have_as_many_cells_as_their_heads():
    assert {len(row) for row in throughput_report.SETUP} == {len(throughput_report.SETUP_HEAD)}


# ---- the sides themselves


@as_root
def test_bare_tells_its_first_instruction(stage):
    side = stage.program("bare", [f"{stage.rootfs}/bin/tiny", "now"])
    rows = side.rows("first 5")
    side.close()
    assert len(rows) == 5 and all(0 < first < ended for first, ended in rows)


@as_root
def test_bare_does_all_jobs(stage):
    side = stage.bare("tiny")
    stamps = side.ask("jobs 2 60 20")
    again = side.ask("jobs 3 50 20")
    side.close()
    assert len(stamps) == 3 and stamps == sorted(stamps) and len(again) == 2


@as_root
@pytest.mark.parametrize("kind", ["pool", "slots", "resident"])
def test_our_sides(stage, kind):
    side = stage.ours(kind, kind, "/bin/tiny", size=4)
    assert side is not None, missing(kind)
    assert len(side.go(3)) == 3
    stamps = side.ask("jobs 2 40 10")
    assert len(stamps) == 4 and stamps == sorted(stamps)
    assert side.rate(2, 0.1) > 0
    side.close()


@as_root
def test_pool_tells_its_first_instruction(stage):
    side = stage.ours("pool", "pool", size=4)
    assert side is not None, missing("pool")
    for first, ended, returned, core_exec, core_exit in side.rows("first 3"):
        assert 0 < first < ended < returned and 0 < core_exec < core_exit < returned
    assert len(side.ask("fill 3")) == 3
    assert side.ask("kernel")[0] >= 0
    assert side.ask("empty") == []
    side.close()


@as_root
def test_a_failed_job_is_no_figure(stage):
    side = stage.ours("pool", "pool", "/bin/false", size=2)
    assert side is not None, missing("pool")
    with pytest.raises(PeerFailed, match="returncode=1"):
        side.ask("jobs 2 10 5")
    side.close()


@as_root
@pytest.mark.parametrize("name", ["docker", "podman"])
def test_daemons_and_what_they_leave(stage, name):
    side = getattr(stage, name)()
    if side is None:
        pytest.skip(f"needs {name} to compare with: sh install.sh bench, which make bench calls, installs it")
    try:
        side.go(1)
        assert side.rate(2, 0.1) > 0
    finally:
        side.close()
    with open("/proc/self/mounts") as file:
        assert stage.folder not in file.read()


def test_job_file_is_json_lines(tmp_path):
    job_file(tmp_path / "jobs", 3, ["/bin/true"])
    with open(tmp_path / "jobs") as file:
        jobs = [json.loads(line) for line in file]
    assert [job["id"] for job in jobs] == ["job-0", "job-1", "job-2"]
    assert all(job["argv"] == ["/bin/true"] for job in jobs)
