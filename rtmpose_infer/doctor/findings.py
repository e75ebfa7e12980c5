"""What the doctor reports: one finding per question, each with the command that fixes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rtmpose_infer.machine import Machine

__all__ = ["Examination", "Finding", "Severity"]

Severity = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        check: Which question, such as ``"onnxruntime:cuda"``; stable, for scripts.
        severity: ``"ok"``; ``"note"``: worth knowing, nothing is wrong; ``"warning"``: something will be slower or
            worse than it could be; ``"error"``: something that was installed or asked for does not work.
        message: What was found.
        fix: The command, or the few words, that put it right; empty where there is nothing to do.
        facts: The figures behind the message.
    """

    check: str
    severity: Severity
    message: str
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Examination:
    """Everything the doctor found.

    Attributes:
        findings: In the order of the checks.
        machine: The computer.
        versions: Installed distributions that matter.
    """

    findings: tuple[Finding, ...]
    machine: Machine
    versions: Mapping[str, str]

    def exit_code(self, *, strict: bool = False) -> int:
        """Return 1 if there is an error (``strict``: or a warning), else 0."""
        bad = {"error", "warning"} if strict else {"error"}
        return int(any(finding.severity in bad for finding in self.findings))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "healthy": self.exit_code() == 0,
            "findings": [asdict(finding) for finding in self.findings],
            "machine": asdict(self.machine),
            "versions": dict(self.versions),
        }
