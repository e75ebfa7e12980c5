"""Why is it slow, why does the GPU stay idle, why does it not start: questions with an answer and a command.

Most trouble with GPU inference is an environment: two builds of one runtime in one folder, libraries of another CUDA
version, an old driver, and a runtime that then falls silently to the CPU. The doctor looks at what is installed, runs
a tiny network on every device that claims to be there, each in a process of its own, and says of everything that is
wrong how to put it right. It changes nothing.
"""

from rtmpose_infer.doctor.examination import examine
from rtmpose_infer.doctor.findings import Examination, Finding, Severity

__all__ = ["Examination", "Finding", "Severity", "examine"]
