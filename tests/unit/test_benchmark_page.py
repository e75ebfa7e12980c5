"""The page shows the report in one file: well-formed, free of scripts, fetching nothing, safe with hostile names."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rtmpose_infer.benchmark import BenchmarkConfig, ContestantReport, Report, render_html
from rtmpose_infer.benchmark.charts import Row, grouped_bars, legend, lines, ridges, stacked_bars
from rtmpose_infer.benchmark.noise import Noise
from rtmpose_infer.benchmark.report import Comparison, Difference, Network, Ratio, Start, summarise
from rtmpose_infer.machine import CudaDriver, Gpu, Machine

HOSTILE = "<script>alert('x')</script>\"&"


def make_report(*, backends=("onnxruntime", "openvino"), persons=(1, 4, 8), model="pose.onnx"):
    rng = np.random.default_rng(0)

    def rounds(people, speed):
        frames, base = 40, (0.004 + 0.003 * people) * speed
        latency = base * (1.1 + 0.1 * rng.random(frames)) + np.where(np.arange(frames) % 5 == 0, 0.004, 0)
        answer = {
            "stages_s": {
                "letterbox": [0.0004 if i % 5 == 0 else None for i in range(frames)],
                "detect": [0.004 if i % 5 == 0 else None for i in range(frames)],
                "crop": [0.0003 * people] * frames,
                "pose": [base] * frames,
                "track": [0.0008] * frames,
                "draw": [0.001 * people] * frames,
            },
            "latency_s": latency.tolist(),
            "floor_s": (latency / 1.06).tolist(),
            "cpu_s": latency.tolist(),
            "people": [people] * frames,
            "detector_calls": [int(i % 5 == 0) for i in range(frames)],
            "pose_calls": [1] * frames,
        }
        return [answer]

    def network(backend):
        return Network(
            model,
            "ab" * 32,
            2**22,
            (192, 256),
            "fp32",
            backend,
            "1.0",
            "cpu",
            2,
            {"name": "Some CPU", "providers": "a, b"},
        )

    contestants = [
        ContestantReport(
            backend=backend,
            detector=network(backend),
            pose=network(backend),
            cold=Start(0.5, 1.0, 0.1, 1.6),
            warm=Start(0.5, 0.3, 0.1, 0.9),
            peak_memory_bytes=2**27,
            difference=Difference(96, 0.01, 0.15, 0.2, 0.003, 9, 0, 0.1),
            scenarios=[
                replace(summarise(rounds(n or 3, 1.0 + 0.2 * i), persons=n, group=5), persons=n) for n in persons
            ],
        )
        for i, backend in enumerate(backends)
    ]
    gpu = CudaDriver((12, 4), "550.54", (Gpu("A GPU", 2**33, (8, 6)),))
    return Report(
        created="2026-01-02T03:04:05+00:00",
        package_version="0.1.0",
        git_revision="0123456789ab+",
        config=BenchmarkConfig().to_dict(),
        machine=Machine("Linux 6 x86_64", "Some CPU", 8, 4.0, ("AVX2", "AVX-512"), 2**34, gpu, "", "3.11"),
        versions={"numpy": "2.0", "onnxruntime": "1.22"},
        contestants=contestants,
        comparisons=[Comparison(b, backends[0], n, Ratio(1.2, 1.1, 1.3, 4)) for b in backends[1:] for n in persons],
        noise=Noise(0.01, 0.0, 1.02, 0),
        warnings=["Trust the ratios, not the times."],
    )


class Reader(HTMLParser):
    """Collects what a browser would fetch or run, the text, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "img", "link", "hr"})

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.fetched, self.tags, self.open, self.text = [], [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [v for k, v in attrs if k in {"src", "href", "xlink:href", "data", "action"} and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_fetches_and_runs_nothing():
    page = render_html(make_report())
    reader = Reader(page)
    assert reader.open == []
    assert reader.fetched == []
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_every_chart_is_well_formed_and_says_what_it_is():
    page = render_html(make_report())
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) >= 9  # two of scaling, three distributions, two per scene of stages, the starts
    for chart in charts:
        root = ET.fromstring(chart)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
        assert "nan" not in chart
        assert "inf" not in chart


def test_the_figures_of_the_report_are_on_the_page():
    report = make_report()
    text = Reader(render_html(report)).text
    for contestant in report.contestants:
        for scenario in contestant.scenarios:
            assert f"{scenario.fps:.1f}" in text
            assert f"{scenario.latency.p99_ms:.2f}" in text
        assert f"{contestant.difference.p99_px:.3f}" in text
    for words in ("Some CPU", "AVX-512", "A GPU, driver 550.54", "1 person", "8 people", "128 MiB", "ababab", "1.20×"):
        assert words in text
    assert "Trust the ratios, not the times." in text


def test_the_top_says_who_is_fastest_where_it_matters():
    page = render_html(make_report())
    assert page.count('class="badge"') == 1
    text = Reader(page).text
    top = text[text.index("Trust the ratios") : text.index("Speed")]
    assert "openvino fastest" in top  # its rounds were 1.2 times as fast, whatever the averages are
    for words in ("8 people, on cpu", "1.60 s, warm 0.90 s", "0.01 px, p99 0.15 px", "speed-up over onnxruntime"):
        assert words in top
    assert 'class="badge"' not in render_html(make_report(backends=("onnxruntime",)))


def test_every_column_has_a_heading():
    for table in re.findall(r"<table.*?</table>", render_html(make_report()), re.DOTALL):
        headings = table.count("<th>")
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL):
            assert not headings or row.count("<td>") in {0, headings}


def test_names_are_text_and_never_markup():
    report = make_report(backends=("onnxruntime", HOSTILE), model=HOSTILE)
    report = replace(report, warnings=[HOSTILE], versions={HOSTILE: "1"})
    reader = Reader(render_html(report))
    assert "script" not in reader.tags
    assert HOSTILE in reader.text


def test_a_backend_that_failed_is_named_with_its_reason():
    report = make_report()
    failed = ContestantReport(backend="tensorrt", failure="pip install 'rtmpose-infer[tensorrt]'")
    page = render_html(replace(report, contestants=[*report.contestants, failed]))
    assert "pip install 'rtmpose-infer[tensorrt]'" in Reader(page).text


def test_a_report_of_failures_alone_is_still_a_page():
    failed = ContestantReport(backend="tensorrt", failure="not installed")
    reader = Reader(render_html(replace(make_report(), contestants=[failed], comparisons=[])))
    assert reader.open == []
    assert "not installed" in reader.text


def test_a_video_has_no_scaling_but_everything_else():
    text = Reader(render_html(make_report(persons=(None,)))).text
    assert "Scaling" not in text
    assert "video, 3.0 people" in text


def test_the_settings_of_the_made_up_scene_are_not_given_for_a_video(tmp_path):
    config = BenchmarkConfig(video=tmp_path / "people.mp4").to_dict()
    text = Reader(render_html(replace(make_report(persons=(None,)), config=config))).text
    assert "video=people.mp4" in text
    assert "persons=" not in text
    assert "frame_size_wh=" not in text
    assert "frame_size_wh=" in Reader(render_html(make_report())).text


@pytest.mark.parametrize(
    ("interval", "words"), [(1, "on every frame."), (5, "every 5 frames."), ("auto", "when it is needed.")]
)
def test_the_page_says_when_the_detector_runs(interval, words):
    config = BenchmarkConfig(det_interval=interval).to_dict()
    text = Reader(render_html(replace(make_report(), config=config))).text
    assert f"the detector runs {words}" in text


def test_a_chart_alone_is_no_larger_than_beside_another():
    # Its letters grow with it. Empty columns must stay, which "auto-fit" would give to the one that is not empty.
    (columns,) = re.findall(r"^\.grid {.*grid-template-columns: (.*); }$", render_html(make_report()), re.MULTILINE)
    assert columns.startswith("repeat(auto-fill,")


def test_one_backend_has_no_speed_up():
    assert "speed-up" not in Reader(render_html(make_report(backends=("onnxruntime",)))).text


class TestCharts:
    def bars(self, chart):
        return [float(r.attrib["width"]) for r in ET.fromstring(chart).iter("rect")]

    def test_bars_are_as_long_as_their_values(self):
        rows = [Row("a", [1.0, 2.0]), Row("b", [4.0, None])]
        widths = self.bars(grouped_bars(rows, ["x", "y"], unit="ms"))
        assert widths == pytest.approx([widths[2] / 4, widths[2] / 2, widths[2]], abs=0.1)

    def test_stacked_bars_end_at_their_sum(self):
        chart = stacked_bars([Row("a", [1.0, 1.0]), Row("b", [3.0, 1.0])], ["x", "y"], unit="s")
        ends = {}
        for rect in ET.fromstring(chart).iter("rect"):
            ends[rect.attrib["y"]] = float(rect.attrib["x"]) + float(rect.attrib["width"])
        left = min(float(r.attrib["x"]) for r in ET.fromstring(chart).iter("rect"))
        first, second = (end - left for end in ends.values())
        assert second / first == pytest.approx(2, abs=0.02)

    def test_higher_values_are_drawn_higher(self):
        chart = lines({"a": [(1, 10), (2, 20), (4, 5)]}, x_label="people", unit="ms")
        dots = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in ET.fromstring(chart).iter("circle")]
        assert sorted(dots) == dots
        assert dots[1][1] < dots[0][1] < dots[2][1]

    @pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0, 0.0], [1e-4, 3e4]])
    def test_distributions_of_any_kind_can_be_drawn(self, values):
        chart = ridges({"a": values, "b": [1.0, 2.0, 3.0]}, unit="ms")
        assert "nan" not in chart
        assert len(list(ET.fromstring(chart).iter("polygon"))) == 2

    def test_equal_factors_between_distributions_are_equal_distances(self):
        fast = np.random.default_rng(0).gamma(9, 1, 200)
        root = ET.fromstring(ridges({"a": fast, "b": 3 * fast, "c": 9 * fast}, unit="ms"))
        medians = [float(line.attrib["x1"]) for line in root.iter("line") if "solid" in line.attrib["class"]]
        assert medians[1] - medians[0] == pytest.approx(medians[2] - medians[1], abs=0.2)
        marks = [float(line.attrib["x1"]) for line in root.iter("line") if "s0" in line.attrib["class"].split()]
        assert marks == sorted(marks)
        p50, p95, p99 = np.percentile(fast, (50, 95, 99))
        assert f"{p50:.2f} / {p95:.1f} / {p99:.1f}" in "".join(root.itertext())

    def test_nothing_to_draw_is_an_empty_chart(self):
        assert self.bars(grouped_bars([], [], unit="ms")) == []
        assert self.bars(stacked_bars([], [], unit="ms")) == []

    def test_names_in_charts_are_escaped(self):
        chart = grouped_bars([Row(HOSTILE, [1.0], HOSTILE)], [HOSTILE], unit="ms")
        assert HOSTILE in "".join(ET.fromstring(chart).itertext())
        assert "<script>" not in legend([HOSTILE])


def test_charts_keep_a_legible_size_on_a_phone_and_scroll_there_as_tables_do() -> None:
    (narrow,) = re.findall(r"@media \(max-width: 560px\) \{ (.*) \}", render_html(make_report()))
    assert ".card { overflow-x: auto;" in narrow
    least = int(re.search(r"svg \{ min-width: (\d+)px", narrow)[1])
    assert 13 * least / 640 > 9  # pixels, of the text in a chart that is drawn 640 wide
