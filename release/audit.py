"""Asks whether a locked package has a known vulnerability. Run by `make audit`.

Exit code 0: every package was asked for, and none has a known vulnerability. 1: one has. 2: the
service did not answer, so nothing is known. The answers come from OSV, or from the service with the
same API at --service.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SOMETHING_KNOWN, NOT_ASKED = 1, 2


def main() -> int:
    """Ask for every package of the lock, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, default=ROOT / "requirements/run.txt")
    parser.add_argument("--service", help="the URL of OSV's query API (default: its own)")
    options = parser.parse_args()
    answers = _answers(options.lock, options.service)
    locked = _locked(options.lock.read_text(encoding="utf-8"))
    unasked = sorted(set(locked) - set(answers))
    if unasked:
        print(f"not audited: {', '.join(unasked)}: nothing is known of them", file=sys.stderr)
        return NOT_ASKED
    known = {name: vulnerabilities for name, vulnerabilities in answers.items() if vulnerabilities}
    for name, vulnerabilities in sorted(known.items()):
        for each in vulnerabilities:
            fixed = ", ".join(each["fix_versions"]) or "no version"
            print(f"{name} {locked[name]}: {each['id']}, fixed in {fixed}")
    print(f"{len(locked)} packages asked for, {len(known)} with a known vulnerability")
    return SOMETHING_KNOWN if known else 0


def _answers(lock: Path, service: str | None) -> dict[str, list[dict[str, Any]]]:
    """The known vulnerabilities of each package, by name; a package without an answer is absent."""
    tool = [Path(sys.executable).with_name("pip-audit"), "--vulnerability-service", "osv"]
    which = ["--require-hashes", "--disable-pip", "--requirement", lock]
    how = ["--format", "json", "--progress-spinner", "off"]
    where = ["--osv-url", service] if service else []
    done = subprocess.run(
        [*tool, *which, *how, *where], capture_output=True, text=True, check=False
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:  # it ends in a traceback, with code 1 as if it had found something
        reason = (done.stderr.strip() or "no answer").splitlines()[-1]
        print(f"no audit: the service could not be asked: {reason}", file=sys.stderr)
        raise SystemExit(NOT_ASKED) from None
    return {each["name"]: each["vulns"] for each in packages if "skip_reason" not in each}


def _locked(text: str) -> dict[str, str]:
    """The packages that this machine would install, with their versions."""
    lines = [line.rstrip(" \\") for line in text.splitlines() if line[:1].isalnum()]
    wanted = [Requirement(line) for line in lines]
    return {
        each.name: str(each.specifier).removeprefix("==")
        for each in wanted
        if each.marker is None or each.marker.evaluate()
    }


if __name__ == "__main__":
    sys.exit(main())
