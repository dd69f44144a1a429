"""The main path through the real command line, on a tiny stand-in: what a user types and what they get."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.cli import main
from edgekit.records import Evidence, Report
from edgekit.storage import load_record, to_json

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
FILES = {"evidence.json", "report.json", "report.html", "report.md", "junit.xml"}
MEMORY_ONLY = '[gates]\nmemory_bytes = { max = 1.2e9, source = "test" }\n'


@pytest.fixture(scope="module")
def benched(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result folder of one quick run."""
    out = tmp_path_factory.mktemp("bench") / "out"
    command = [sys.executable, "-m", "edgekit", "bench", tiny_gguf, "-d", "galaxy-s25", "--quick", "-t", "1", "-o", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("UNKNOWN") or "UNKNOWN" in done.stdout.splitlines()[0]
    assert "measuring …" in done.stderr
    return out


@pytest.mark.slow
def test_bench_writes_every_format(benched: Path, tiny_gguf: Path) -> None:
    assert {path.name for path in benched.iterdir()} == FILES
    report = load_record(benched / "report.json", Report)
    assert report.exit_code == 3
    assert report.evidence.measurement is not None
    assert report.evidence.measurement.artifact_sha256 == report.evidence.artifact.sha256
    assert [path.name for path in tiny_gguf.parent.iterdir()] == [tiny_gguf.name]


@pytest.mark.slow
def test_gate_judges_either_file_again(benched: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(MEMORY_ONLY)
    for name in ("evidence.json", "report.json"):
        done = cli("gate", benched / name, "-d", "galaxy-s25", "--gates", tmp_path / "gates.toml", "--json")
        assert done.returncode == 0, done.stdout
        assert json.loads(done.stdout)["verdicts"][0]["status"] == "pass"
    assert not list((tmp_path / "cwd").iterdir())


@pytest.mark.slow
def test_gate_reads_compact_json(benched: Path, cli: Cli, tmp_path: Path) -> None:
    compact = json.dumps(json.loads((benched / "report.json").read_text()), separators=(",", ":"))
    (tmp_path / "compact.json").write_text(compact)
    assert cli("gate", tmp_path / "compact.json", "-d", "galaxy-s25").returncode == 3


@pytest.mark.slow
def test_gate_does_not_believe_a_stored_projection(benched: Path, cli: Cli, tmp_path: Path) -> None:
    evidence = json.loads((benched / "evidence.json").read_text())
    evidence["cases"][0]["projection"]["decode"] = {"value": 9e5, "low": 9e5, "high": 9e5, "basis": "measured"}
    evidence["cases"][0]["projection"]["calibrated"] = True
    (tmp_path / "forged.json").write_text(json.dumps(evidence))
    (tmp_path / "gates.toml").write_text('[gates]\ndecode_tokens_per_s = { min = 8e5, source = "test" }\n')
    done = cli("gate", tmp_path / "forged.json", "-d", "galaxy-s25", "--gates", tmp_path / "gates.toml")
    assert done.returncode in (1, 3), done.stdout


@pytest.mark.slow
def test_gate_keeps_the_recorded_settings(benched: Path, cli: Cli, tmp_path: Path) -> None:
    evidence = load_record(benched / "evidence.json", Evidence)
    wide = to_json(evidence).replace('"context_tokens": 4096', '"context_tokens": 65536')
    (tmp_path / "wide.json").write_text(wide)
    done = cli("gate", tmp_path / "wide.json", "-d", "galaxy-s25", "--json")
    assert json.loads(done.stdout)["evidence"]["cases"][0]["settings"]["context_tokens"] == 65536


@pytest.mark.slow
def test_gate_for_other_devices_writes_a_folder_each(benched: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("gate", benched / "evidence.json", "-d", "raspberry-pi-5", "-d", "smartphone", "-o", tmp_path / "out")
    assert done.returncode in (1, 3)
    for name in ("raspberry-pi-5", "smartphone"):
        assert {path.name for path in (tmp_path / "out" / name).iterdir()} == FILES
    again = cli("gate", benched / "evidence.json", "-d", "smartphone", "-o", tmp_path / "out")
    assert again.returncode == 2
    assert "already there" in again.stderr


@pytest.mark.slow
def test_own_profile_by_path_is_the_device(benched: Path, cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "my-board.toml").write_text(
        'title = "My [bold]board[/x]"\nclass = "sbc"\nisa = "x86_64+avx2"\nsource = "test"\n'
        'ram_bytes = { value = 8e9, source = "test" }\n'
    )
    shown = cli("fit", tiny_gguf, "-d", tmp_path / "my-board.toml")
    assert shown.returncode in (0, 3), shown.stderr
    assert "[bold]board[/x]" in shown.stdout
    plan = cli("bench", tiny_gguf, "-d", tmp_path / "my-board.toml", "--on-device", "my-board", "--dry-run")
    assert plan.returncode == 0, plan.stderr


@pytest.mark.slow
def test_dry_run_runs_and_writes_nothing(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    done = cli("bench", tiny_gguf, "-d", "smartphone", "--dry-run")
    assert done.returncode == 0
    assert "process 1: pp512 × 4, tg128 × 4" in done.stdout
    assert not list((tmp_path / "cwd").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is POSIX")
def test_ctrl_c_leaves_nothing(tiny_gguf: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "bench", str(tiny_gguf), "-d", "smartphone", "-t", "1"]
    child = subprocess.Popen([*command, "--sustained", "5m"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if "measuring" in line:
            break
    time.sleep(1.0)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "error: interrupted" in errors
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not workers_of(tiny_gguf)


def workers_of(model: Path) -> list[str]:
    """Command lines of live processes that still hold the model open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link) == str(model) for link in (folder / "fd").iterdir()):
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_bare_call_shows_help_and_is_no_pass(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2
    assert "bench" in done.stdout
    assert "Exit codes: 0 pass" in done.stdout


def test_ctrl_c_that_a_library_makes_an_error_of_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def importing(**_: object) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RecursionError("half imported") from None
        return 0

    monkeypatch.setattr("edgekit.cli.app", importing)
    before = signal.getsignal(signal.SIGINT)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_a_library_passes_over_is_heard_at_the_next_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgekit.cli.telling import progress

    def importing(**_: object) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with progress(quiet=True) as told:
            try:
                raise ValueError("on its way")
            except ValueError:
                told("cleaning up", 0, 1)  # nothing is cut off twice
            told("measuring", 0, 1)
        return 0

    monkeypatch.setattr("edgekit.cli.app", importing)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted\n")
    monkeypatch.setattr("edgekit.cli.app", lambda **_: progress(quiet=True).__enter__()("measuring", 0, 1) or 0)
    assert main(["doctor"]) == 0, "of the call before"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
@pytest.mark.parametrize("verb", ["devices", "run"])
def test_a_reader_that_goes_away_is_no_failed_gate(verb: str, tmp_path: Path) -> None:
    """1 is the gate's FAIL: a pipe that broke must not read as one."""
    arguments = {"devices": ("devices", "--json"), "run": ("run", "tiny", "--dry-run")}[verb]
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "edgekit", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, check=False, timeout=120)
    os.close(write)
    assert done.returncode == 4, done.stderr


def test_a_usage_error_names_the_help_of_its_verb(cli: Cli) -> None:
    for arguments, verb in ((("runner",), "runner"), (("runner", "build"), "runner build"), (("distill",), "distill")):
        done = cli(*arguments)
        assert done.returncode == 2
        assert done.stderr.endswith(f"\n\nhint: see `edgekit {verb} --help`\n")
        assert len(done.stderr) < 120


def test_help_loads_neither_numpy_nor_rich() -> None:
    heavy = "{'numpy', 'rich', 'pydantic', 'torch', 'llama_cpp'}"
    code = f"import sys; from edgekit.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_audit_of_the_shipped_claims(cli: Cli) -> None:
    claims = sorted((Path(__file__).parent.parent / "benchmarks" / "claims").glob("*.toml"))
    done = cli("audit", *claims)
    assert done.returncode == 1
    assert "IMPOSSIBLE by 13.6×" in done.stdout
