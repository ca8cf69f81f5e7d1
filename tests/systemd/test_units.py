from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from edge_detector.cli import app
from edge_detector.config import Config, load_config, parse_config
from edge_detector.errors import ConfigError, ModelError, SourceLost

PROGRAM = "/opt/edge-detector/venv/bin/edge-detector"
USAGE_ERROR = 2  # click's, for options that do not exist


def needs(command: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"needs {command}: apt install {package}")


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "systemd"


def bash(folder: Path, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run lines of bash that see the functions and variables of install.sh."""
    command = ["bash", "-c", f'. "$1"\n{script}', "bash", str(folder / "install.sh")]
    return subprocess.run(command, check=check, capture_output=True, text=True)


@pytest.fixture(scope="module")
def units(folder: Path) -> dict[str, str]:
    single = (folder / "edge-detector.service").read_text(encoding="utf-8")
    several = bash(folder, 'instance_unit "$checkout/systemd/edge-detector.service"').stdout
    return {"edge-detector.service": single, "edge-detector@.service": several}


def settings_of(unit: str) -> dict[str, list[str]]:
    """Return the values of each key."""
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if not line.startswith(("#", "[")) and "=" in line:
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def service(units: dict[str, str]) -> dict[str, list[str]]:
    return settings_of(units["edge-detector.service"])


@pytest.fixture
def written(units: dict[str, str], tmp_path: Path) -> list[str]:
    """The units as files, with a program that is there."""
    for name, text in units.items():
        (tmp_path / name).write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
    return [str(tmp_path / "edge-detector.service"), str(tmp_path / "edge-detector@front.service")]


@needs("systemd-analyze", "systemd")
def test_systemd_finds_nothing_wrong_with_the_units(written: list[str]) -> None:
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *written], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "edge-detector" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


@needs("systemd-analyze", "systemd")
def test_systemd_finds_something_wrong_with_a_key_that_does_not_exist(written: list[str]) -> None:
    path = Path(written[0])
    path.write_text(path.read_text().replace("WatchdogSec", "WatchdogTime"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True)
    assert "WatchdogTime" in done.stderr


@needs("systemd-analyze", "systemd")
def test_exposure_of_the_units_is_2_5_or_less(units: dict[str, str], tmp_path: Path) -> None:
    for text in units.values():
        path = tmp_path / "edge-detector.service"  # this check takes no templates
        path.write_text(text.replace("%i", "front"), encoding="utf-8")
        command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Overall exposure level" in done.stdout


def test_command_line_of_the_units_is_one_of_the_program(units: dict[str, str]) -> None:
    for text in units.values():
        (line,) = settings_of(text)["ExecStart"]
        program, command, *arguments = line.split()
        assert program == PROGRAM
        parser = get_command(app).commands[command]  # type: ignore[attr-defined]
        with parser.make_context(command, arguments) as context:
            assert context.params["config"].parent == Path("/etc/edge-detector")


def test_what_a_new_start_does_not_help_is_not_started_again(service: dict[str, list[str]]) -> None:
    codes = {int(code) for code in service["RestartPreventExitStatus"][0].split()}
    assert codes == {USAGE_ERROR, ConfigError.exit_code, ModelError.exit_code}
    assert SourceLost.exit_code not in codes


def test_crash_loop_ends_but_neither_an_absent_camera_nor_the_watchdog_uses_up_the_starts(
    service: dict[str, list[str]],
) -> None:
    interval_s, burst, pause_s, watchdog_s = (
        int(service[key][0]) for key in ("StartLimitIntervalSec", "StartLimitBurst", "RestartSec", "WatchdogSec")
    )
    slowest_start_s = 50
    assert burst * (pause_s + slowest_start_s) < interval_s
    shortest_s = min(60, Config().feeds["camera"].give_up_s, watchdog_s)
    assert burst * (pause_s + shortest_s) > interval_s


def test_watchdog_is_patient_with_the_slowest_inference_and_start(service: dict[str, list[str]]) -> None:
    assert service["Type"] == ["notify"]
    assert int(service["WatchdogSec"][0]) / 2 > 5 * 5.0  # half of it is a stage's, an inference on the slowest Pi 5 s
    assert service["TimeoutStartSec"] == ["5min"]


def test_installer_and_units_name_the_same_paths(folder: Path, service: dict[str, list[str]]) -> None:
    script = 'printf "%s\\n" "$home/venv/bin/edge-detector" "$config" "$state" "$doc"'
    program, config, state, doc = bash(folder, script).stdout.split()
    assert service["ExecStart"] == [f"{program} run --config {config}/edge-detector.yaml"]
    assert f"/etc/{service['ConfigurationDirectory'][0]}" == config
    assert f"/var/lib/{service['StateDirectory'][0]}" == service["WorkingDirectory"][0] == state
    assert f"HOME={state}" in service["Environment"]
    assert service["LoadCredential"] == [f"EDGE_DETECTOR:{config}/secrets"]
    assert service["EnvironmentFile"] == [f"-{config}/environment"]
    assert service["Documentation"] == [f"file:{doc}/README.md"]
    made = (folder / "edge-detector.tmpfiles").read_text(encoding="utf-8")
    modes = {line.split()[1]: line.split()[2] for line in made.splitlines() if not line.startswith("#")}
    assert modes == {config: "0750", f"{config}/secrets": "0700", state: "0750"}
    # Otherwise systemd complains at each start.
    assert service["ConfigurationDirectoryMode"] == service["StateDirectoryMode"] == ["0750"]
    assert f"{doc}/edge-detector.yaml" in (folder / "service.yaml").read_text(encoding="utf-8")


def test_user_and_groups_of_the_unit_are_made(folder: Path, service: dict[str, list[str]]) -> None:
    lines = [line.split() for line in (folder / "edge-detector.sysusers").read_text().splitlines()]
    groups = {line[1] for line in lines if line[0] == "g"}
    assert groups == set(service["SupplementaryGroups"][0].split()) == {line[2] for line in lines if line[0] == "m"}
    assert [line[1] for line in lines if line[0] == "u"] == service["User"] == service["Group"]
    assert 'GROUP="plugdev"' in (folder / "99-edgetpu.rules").read_text()


@needs("systemd-sysusers", "systemd")
def test_systemd_understands_the_lists_of_users(folder: Path, tmp_path: Path) -> None:
    users = str(folder / "edge-detector.sysusers")
    command = ["systemd-sysusers", "--dry-run", f"--root={tmp_path}", users]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "edge-detector" in done.stdout + done.stderr


def test_unit_of_instances_differs_only_in_settings_and_folders(units: dict[str, str]) -> None:
    single, several = (text.splitlines() for text in units.values())
    assert len(single) == len(several)
    different = [new for old, new in zip(single, several, strict=True) if old != new]
    assert [line.partition("=")[0] for line in different] == [
        "Description", "ExecStart", "WorkingDirectory", "StateDirectory", "RuntimeDirectory", "Environment",
    ]  # fmt: skip
    assert all(line.endswith(("%i", "%i.yaml")) for line in different)


def test_settings_that_are_installed_keep_events_and_are_else_the_defaults(
    folder: Path, service: dict[str, list[str]]
) -> None:
    installed = load_config(folder / "service.yaml")
    assert installed.events.path == f"{service['WorkingDirectory'][0]}/events.db"
    default = Config(source="auto", events=Config().events.model_copy(update={"path": installed.events.path}))
    assert installed == default


def test_examples_in_the_settings_that_are_installed_are_valid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from edge_detector.passwords import hash_password

    monkeypatch.setenv("EDGE_DETECTOR_MQTT_PASSWORD", "a secret")
    text = (folder / "service.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^#(\w+: )", r"\1", text, flags=re.MULTILINE).replace(
        "$scrypt$ln=14,r=8,p=1$...", hash_password("one")
    )
    settings = parse_config(yaml.safe_load(text), "service.yaml")
    assert settings.http == "0.0.0.0:8080"
    assert set(settings.web.users) == {"ada"}
    assert settings.mqtt.host == "192.168.1.5"


@needs("shellcheck", "shellcheck")
def test_shellcheck_finds_nothing_wrong_with_the_installer(folder: Path) -> None:
    done = subprocess.run(["shellcheck", str(folder / "install.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--colour"], "--colour: unknown option, see --help"),
        (["--with"], "--with: give stream"),
        (["--with", "train"], "--with: give stream"),
        (["--purge"], "--purge: only with --uninstall"),
    ],
)
def test_wrong_option_of_the_installer_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run([folder / "install.sh", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"install.sh: error: {message}\n")


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ("of_os() { [ $1 = ID ] && echo debian || echo 11; }", "Debian or Raspberry Pi OS 12"),
        ("systemctl() { echo 'systemd 247 (247.3)'; }", "systemd 247 is too old"),
        ("id() { echo 1000; }", "needs root: sudo"),
        ("dpkg() { echo riscv64; }", "no TensorFlow Lite for riscv64"),
        ("dpkg() { echo armhf; }; python=./no_311", "only Python 3.11"),
        ("dpkg() { echo armhf; }; uname() { echo aarch64; }", "arm_64bit=0"),
        ("needed_mb=999999999", "MB are free below /opt"),
        ("python=./old", "too old, 3.10 is needed"),
        ("python=/root/python", "lies in a home folder"),
        ("command() { return 1; }", "this needs apt and systemd"),
    ],
)
def test_machine_that_the_installer_cannot_serve_is_told_why(
    folder: Path, tmp_path: Path, machine: str, message: str
) -> None:
    for name, works in (("fine", ""), ("no_311", '[[ "$*" != *!=* ]]'), ("old", "false")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{works}\n")
        (tmp_path / name).chmod(0o755)
    fine = f"""
        of_os() {{ [ $1 = ID ] && echo debian || echo 12; }}
        systemctl() {{ echo 'systemd 252 (252.38)'; }}
        apt-get() {{ :; }}; dpkg() {{ echo arm64; }}; id() {{ echo 0; }}; uname() {{ echo armv7l; }}
        run_apt() {{ :; }}; readlink() {{ echo "$2"; }}
        cd {tmp_path}; dry_run=false; python=./fine; needed_mb=1; PATH=.:$PATH
        """
    refused = bash(folder, f"{fine}{machine}\ncheck_system", check=False)
    assert message in refused.stderr
    assert refused.returncode == 1
    assert bash(folder, f"{fine}\ncheck_system").stderr == ""


@pytest.mark.parametrize(("no_start", "kept"), [("false", ["new"]), ("true", ["new", "old"])])
def test_release_that_may_still_run_is_kept(folder: Path, tmp_path: Path, no_start: str, kept: list[str]) -> None:
    for name in ("old", "new"):
        (tmp_path / "releases" / name).mkdir(parents=True)
    steps = (
        "check_system install_packages build make_user_and_folders check_settings activate enable_and_start say_next"
    )
    stubs = "; ".join(f"{step}() {{ :; }}" for step in steps.split())
    script = f"home={tmp_path}; {stubs}; version() {{ echo new; }}; date() {{ :; }}; wanted_services() {{ :; }}"
    flags = f"dry_run=false; no_start={no_start}; extras=; work={tmp_path}/work; mkdir $work"
    bash(folder, f"{script}\nmv {tmp_path}/releases/new {tmp_path}/releases/new-\n{flags}\ninstall_all")
    assert sorted(path.name.rstrip("-") for path in (tmp_path / "releases").iterdir()) == kept


def test_installer_does_not_build_in_memory(folder: Path) -> None:
    """From Debian 13 on /tmp is, half of it at most: a wheel of 215 MB did not fit on a Pi Zero 2."""
    text = (folder / "install.sh").read_text(encoding="utf-8")
    assert re.findall(r"mktemp.*", text) == [
        "mktemp -d /var/tmp/edge-detector.XXXXXX) # on the disk: /tmp is in memory from Debian 13 on"
    ]
    assert "TMPDIR=$work PIP_CACHE_DIR=" in text


def test_dry_run_of_the_installer_names_what_it_would_do_and_does_nothing(folder: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("needs a Debian")
    home = Path("/opt/edge-detector")
    before = home.exists()
    done = subprocess.run([folder / "install.sh", "--dry-run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "would run: mv -T /opt/edge-detector/venv.new /opt/edge-detector/venv" in done.stdout
    assert home.exists() == before
