"""How fast is it here, where does the time go, and how far is that from the network calls alone.

Every compared backend runs in a process of its own, so its memory peak, its threads and its crashes are its own; the
processes take turns, round by round, so that whatever disturbs the machine disturbs all of them. The floor under every
figure is measured too: right after each frame its network calls are made again, alone, and the ratio of both is what
the pipeline costs. A ratio within one run says more than any absolute time.
"""

from rtmpose_infer.benchmark.config import BenchmarkConfig
from rtmpose_infer.benchmark.page import render_html
from rtmpose_infer.benchmark.report import STAGES, ContestantReport, Report, Scenario
from rtmpose_infer.benchmark.runner import run_benchmark

__all__ = ["STAGES", "BenchmarkConfig", "ContestantReport", "Report", "Scenario", "render_html", "run_benchmark"]
