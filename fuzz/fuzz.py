"""Feeds invalid input to every parser of outside data, each target for a limited time.

    fuzz.py                        every target in turn, half of the time with bytes, half with
                                   almost valid inputs
    fuzz.py --target toml          one of them
    fuzz.py --target toml --replay fuzz/findings/toml-crash-…

Inputs that were read wrongly are in fuzz/findings afterwards, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
FINDINGS = HERE / "findings"
SHAPED_BYTES = 2048
INPUT_SECONDS, MOST_MIB = 10, 1024  # of one input; of the process, the instrumentation included


def fuzz(target: str, seconds: int, *, shaped: bool) -> None:
    """Fuzz in this process, which ends with it.

    `shaped`: atheris chooses among the inputs of a strategy of Hypothesis, else it makes bytes.
    """
    import atheris  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - only here: the environment of the tests has none

    with atheris.instrument_imports(include=["exporter", "prometheus_client", "yaml", "tomllib"]):
        from targets import TARGETS  # noqa: PLC0415 - instrumented as it is imported
    chosen = TARGETS[target]
    run: Callable[[bytes], object] = chosen.run
    longest = chosen.longest
    with tempfile.TemporaryDirectory() as folder:
        corpus, words = Path(folder, "corpus"), Path(folder, "words")
        if shaped:
            corpus.mkdir()
            chance = random.Random(target)
            for number in range(32):  # first choices: a few bytes give only empty inputs
                (corpus / str(number)).write_bytes(chance.randbytes(SHAPED_BYTES))
            run, longest = _shaped(target, chosen.run), SHAPED_BYTES
        else:
            shutil.copytree(HERE / "corpus" / target, corpus)
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in chosen.words))
        FINDINGS.mkdir(exist_ok=True)
        arguments = [
            sys.argv[0],
            str(corpus),
            f"-max_total_time={seconds}",
            f"-max_len={longest}",
            f"-timeout={INPUT_SECONDS}",
            f"-rss_limit_mb={MOST_MIB}",
            "-len_control=0" if shaped else f"-dict={words}",
            f"-artifact_prefix={FINDINGS}/{target}-{'shaped-' if shaped else ''}",
            "-print_final_stats=1",
        ]
        atheris.Setup(arguments, run)
        atheris.Fuzz()


def _shaped(target: str, run: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """`run` on inputs of the target's strategy, which the fuzzer's bytes choose."""
    from hypothesis import given, settings  # noqa: PLC0415 - not where bytes are made
    from strategies import STRATEGIES  # noqa: PLC0415 - the same

    @settings(database=None, deadline=None)
    @given(data=STRATEGIES[target])
    def play(data: bytes) -> None:
        try:
            run(data)
        except BaseException:
            print(f"the input was {data!r}", flush=True)
            raise

    choose: Callable[[bytes], object] = play.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    return choose


def _escaped(word: str) -> str:
    """In the format of libFuzzer's dictionaries."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


def fuzz_all(targets: list[str], seconds: int) -> int:
    """Run each target twice, in separate processes; print the figures. Return 1 with findings."""
    found = []
    for target in targets:
        for shape in ([], ["--shaped"]):
            name = " ".join([target, *(word.removeprefix("--") for word in shape)])
            half = str(max(1, seconds // 2))
            run = subprocess.run(  # noqa: S603 - this very program
                [sys.executable, __file__, "--target", target, "--seconds", half, *shape],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
            print(f"{name}: {summary(run.stdout)}", flush=True)
            if run.returncode:
                found.append(name)
                print(run.stdout[-4000:], flush=True)
    if found:
        print(f"read wrongly: {', '.join(found)}; the inputs are in {FINDINGS}")
    return 1 if found else 0


def summary(log: str) -> str:
    """Executions, coverage and corpus, out of libFuzzer's log."""
    runs = re.findall(r"stat::number_of_executed_units: +(\d+)", log)
    states = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", log)
    if not runs or not states:
        return "no figures"
    first, (edges, features, inputs) = states[0], states[-1]
    return (
        f"{int(runs[-1]):,} executions, {edges} edges ({first[0]} by the first input), "
        f"{features} features, {inputs} inputs kept"
    )


def main() -> int:
    targets = sorted(each.name for each in (HERE / "corpus").iterdir())
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each (default: %(default)s)")
    parser.add_argument("--target", choices=targets)
    parser.add_argument("--shaped", action="store_true", help="inputs that are nearly right")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input and end")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))  # for the exporter, which this environment has not
    if options.target is None:
        return fuzz_all(targets, options.seconds)
    if options.replay is not None:
        from targets import TARGETS  # noqa: PLC0415 - as above

        TARGETS[options.target].run(options.replay.read_bytes())
        return 0
    fuzz(options.target, options.seconds, shaped=options.shaped)
    return 0


if __name__ == "__main__":
    sys.exit(main())
