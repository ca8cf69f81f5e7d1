"""Files that the settings name, disks and their wear, users and groups."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_detector.doctor import access, storage, wear
from edge_detector.doctor.context import Context
from edge_detector.doctor.diagnosis import check_settings
from edge_detector.doctor.host import Host

if TYPE_CHECKING:
    from tests.unit.doctor.conftest import Machine

SERVICE_USER = "edge-detector:x:4242:4242::/:/usr/sbin/nologin\n"
FOLDER = "/var/lib/edge-detector"
EVENTS = f"events: {{path: {FOLDER}/events.db}}"
GB = 10**9


def plenty(_: Path) -> tuple[int, int, int]:
    return 30 * GB, 10 * GB, 20 * GB


def make_folder(machine: Machine, mode: int, name: str = FOLDER) -> Path:
    folder = machine.root / name.lstrip("/")
    folder.mkdir(parents=True)
    folder.chmod(mode)
    return folder


def test_output_that_can_be_written_is_ok(machine: Machine) -> None:
    machine.write("/etc/passwd", SERVICE_USER)
    make_folder(machine, 0o777)
    (found,) = machine.check(storage.check_outputs, EVENTS)
    assert (found.state, found.found) == ("ok", f"events.path: {FOLDER}/events.db, written by edge-detector")


def test_folder_that_the_service_may_not_write_to_is_told(machine: Machine) -> None:
    machine.write("/etc/passwd", SERVICE_USER)
    make_folder(machine, 0o755)
    (found,) = machine.check(storage.check_outputs, EVENTS)
    assert (found.state, found.found.endswith(f"edge-detector may not write to {FOLDER}")) == ("error", True), found
    assert found.command == f"sudo mkdir -p {FOLDER} && sudo chown edge-detector: {FOLDER}"


def test_folder_that_the_service_may_not_enter_is_told(machine: Machine) -> None:
    machine.write("/etc/passwd", SERVICE_USER)
    make_folder(machine, 0o777)
    (machine.root / "var/lib").chmod(0o700)
    (found,) = machine.check(storage.check_outputs, EVENTS)
    assert (found.state, "may not write to /var/lib" in found.found) == ("error", True), found


def test_file_that_the_service_may_not_write_to_is_told(machine: Machine) -> None:
    machine.write("/etc/passwd", SERVICE_USER)
    make_folder(machine, 0o777)
    machine.write(f"{FOLDER}/events.db").chmod(0o644)
    (found,) = machine.check(storage.check_outputs, EVENTS)
    assert (found.state, found.command) == ("error", f"sudo chown edge-detector: {FOLDER}/events.db")


def test_group_of_the_service_opens_a_folder(machine: Machine) -> None:
    machine.write("/etc/passwd", SERVICE_USER)
    make_folder(machine, 0o770)
    machine.write("/etc/group", f"media:x:{os.getgid()}:\n")
    machine.unit("User=edge-detector")
    assert machine.check(storage.check_outputs, EVENTS)[0].state == "error"
    machine.unit("User=edge-detector\nSupplementaryGroups=media")
    assert machine.check(storage.check_outputs, EVENTS)[0].state == "ok"


def test_missing_folder_is_told_for_files_and_made_for_pictures(machine: Machine) -> None:
    machine.write("/etc/passwd", SERVICE_USER)
    make_folder(machine, 0o777)
    (found,) = machine.check(storage.check_outputs, f"output: {{jsonl: {FOLDER}/new/found.jsonl}}")
    assert (found.state, f"there is no folder {FOLDER}/new" in found.found) == ("error", True), found
    (found,) = machine.check(storage.check_outputs, f"snapshots: {{path: {FOLDER}/new/pictures}}")
    assert found.state == "ok"


def test_folder_in_place_of_a_file_is_told(machine: Machine) -> None:
    make_folder(machine, 0o777, f"{FOLDER}/events.db")
    (found,) = machine.check(storage.check_outputs, EVENTS)
    assert (found.state, found.found.endswith("is a folder")) == ("error", True), found


@pytest.mark.parametrize(
    ("unit", "state"),
    [
        ("ProtectSystem=strict\nStateDirectory=edge-detector", "ok"),
        ("ProtectSystem=strict\nReadWritePaths=-/var/lib/edge-detector /mnt", "ok"),
        ("ProtectSystem=full", "ok"),
        ("ProtectSystem=strict\nStateDirectory=other", "error"),
    ],
)
def test_sandbox_of_the_service_that_shuts_it_off_is_told(machine: Machine, unit: str, state: str) -> None:
    make_folder(machine, 0o777)
    machine.unit(unit)
    (found,) = machine.check(storage.check_outputs, EVENTS)
    assert found.state == state, found
    assert state == "ok" or f"ReadWritePaths={FOLDER}" in str(found.command)


def test_relative_paths_count_from_the_working_folder_of_the_service(machine: Machine) -> None:
    make_folder(machine, 0o777)
    config = "events: {path: events.db}"
    machine.unit(f"WorkingDirectory={FOLDER}\nProtectSystem=strict\nStateDirectory=edge-detector")
    assert machine.check(storage.check_outputs, config)[0].state == "ok"
    machine.unit("ProtectSystem=strict\nStateDirectory=edge-detector")
    assert machine.check(storage.check_outputs, config)[0].state == "error"


def test_certificates_that_cannot_be_read_are_told(machine: Machine) -> None:
    machine.write("/etc/passwd", SERVICE_USER)
    machine.write("/etc/tls/cert.pem")
    machine.write("/etc/tls/key.pem").chmod(0o600)
    config = "web: {tls_cert: /etc/tls/cert.pem, tls_key: /etc/tls/key.pem}"
    (found,) = machine.check(storage.check_inputs, config)
    assert (found.state, found.found) == ("error", "web.tls_key: /etc/tls/key.pem: edge-detector may not read it")
    (machine.root / "etc/tls/key.pem").chmod(0o644)
    assert machine.check(storage.check_inputs, config)[0].found == "web.tls_cert, web.tls_key: read by edge-detector"
    (machine.root / "etc/tls/cert.pem").unlink()
    (found,) = machine.check(storage.check_inputs, config)
    assert (found.state, "no such file" in found.found) == ("error", True), found


def test_model_in_a_home_that_the_service_does_not_see_is_told(machine: Machine) -> None:
    machine.write("/etc/passwd", SERVICE_USER)
    machine.write("/home/ada/mine.tflite")
    config = "{model: {path: /home/ada/mine.tflite}, recordings: {path: /tmp/clips}}"
    assert machine.check(storage.check_inputs, config)[0].state == "ok"
    machine.unit("ProtectHome=yes\nPrivateTmp=yes\nUser=edge-detector")
    (found,) = machine.check(storage.check_inputs, config)
    assert (found.state, "sees nothing of that" in found.found) == ("error", True), found
    assert found.command == "sudo install -o edge-detector -m 0640 /home/ada/mine.tflite /var/lib/edge-detector/"
    make_folder(machine, 0o777, "/tmp")
    (found,) = machine.check(storage.check_outputs, config)
    assert (found.state, "has no such folder" in found.found) == ("error", True), found
    machine.unit("User=edge-detector")
    (machine.root / "home/ada").chmod(0o700)
    (found,) = machine.check(storage.check_inputs, config)
    assert (found.state, "may not enter /home/ada" in found.found) == ("error", True), found


def test_what_is_hidden_from_this_user_is_skipped(seen_by_nobody: tuple[Machine, Callable]) -> None:
    machine, as_nobody = seen_by_nobody
    machine.write("/etc/passwd", SERVICE_USER)
    make_folder(machine, 0o700)
    settings = machine.write(
        "settings.yaml", f"{{{EVENTS[:-1]}}}, web: {{tls_cert: {FOLDER}/c, tls_key: {FOLDER}/k}}}}"
    )
    machine.write("/etc/edge-detector/edge-detector.yaml")
    (machine.root / "etc/edge-detector").chmod(0o700)
    with as_nobody():
        context = Context(Host(root=machine.root), settings)
        found = [*storage.check_outputs(context), *storage.check_inputs(context), *wear.check_space(context)]
        (told,) = check_settings(Context(Host(root=machine.root), None))
    assert [one.state for one in found[:3]] == ["skipped"] * 3, found
    assert all("run it with sudo" in one.found for one in found[:3])
    assert found[3].found.endswith("at /var/lib/edge-detector (events.path)")
    assert (told.state, "run it with sudo" in str(told.fix)) == ("error", True), told


def test_outputs_and_inputs_are_skipped_where_none_are_named(machine: Machine) -> None:
    assert [machine.check(one)[0].state for one in (storage.check_outputs, storage.check_inputs)] == ["skipped"] * 2


@pytest.mark.parametrize(("free", "state"), [(20 * GB, "ok"), (300 * 10**6, "warning"), (9 * 10**6, "error")])
def test_full_disk_is_told(machine: Machine, free: int, state: str) -> None:
    make_folder(machine, 0o777)
    asked = []

    def usage(path: Path) -> tuple[int, int, int]:
        asked.append(path)
        return 30 * GB, 30 * GB - free, free

    (found,) = machine.check(wear.check_space, EVENTS, disk_usage=usage)
    assert asked == [machine.root / FOLDER[1:]]
    assert (found.state, found.found.endswith(f"at {FOLDER} (events.path)")) == (state, True), found
    assert state == "ok" or found.command


SD = "/dev/mmcblk0p2 / ext4 {} 0 0\n"


@pytest.mark.parametrize(
    ("mount", "state", "words"),
    [
        (SD.format("rw,noatime"), "ok", "writable"),
        (SD.format("ro,noatime"), "warning", "read-only"),
        ("overlayroot / overlay rw,lowerdir=/lower 0 0\n", "warning", "forgotten at the next start"),
    ],
)
def test_root_that_keeps_nothing_is_told(machine: Machine, mount: str, state: str, words: str) -> None:
    machine.write("/proc/mounts", mount)
    (found,) = machine.check(wear.check_root)
    assert (found.state, words in found.found) == (state, True), found


def states_of(machine: Machine, config: str | None = None) -> list[tuple[str, str]]:
    return [(found.state, found.found) for found in machine.check(wear.check_cards, config)]


def test_sd_card_that_is_written_to_often_is_told(machine: Machine) -> None:
    machine.write("/proc/mounts", SD.format("rw") + "tmpfs /dev/shm tmpfs rw 0 0\n")
    make_folder(machine, 0o755, "/var/lib")
    config = "{output: {jsonl: /var/lib/a.jsonl}, recordings: {path: /dev/shm/clips}, events: {path: /var/lib/e.db}}"
    assert states_of(machine, config) == [("warning", "output.jsonl writes often to it")]
    synced = config.replace("a.jsonl", "a.jsonl, jsonl_sync_s: 60")
    assert [state for state, _ in states_of(machine, synced)] == ["ok"]


def test_journal_and_swap_on_the_sd_card_are_told(machine: Machine) -> None:
    machine.write("/proc/mounts", SD.format("rw"))
    (machine.root / "var/log/journal").mkdir(parents=True)
    machine.write("/proc/swaps", "Filename Type Size Used Priority\n/var/swap file 1 0 -2\n")
    assert states_of(machine) == [
        ("warning", "the journal is written to it"),
        ("warning", "swap is on it (/var/swap)"),
    ]
    machine.write("/etc/systemd/journald.conf.d/volatile.conf", "[Journal]\nStorage=volatile\n")
    machine.write("/proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n")
    assert [state for state, _ in states_of(machine)] == ["ok"]


def test_journal_is_where_the_last_of_the_drop_ins_says(machine: Machine) -> None:
    machine.write("/proc/mounts", SD.format("rw"))
    (machine.root / "var/log/journal").mkdir(parents=True)
    name = "journald.conf.d/40-rpi-volatile-storage.conf"  # as Raspberry Pi OS 13 has it
    machine.write(f"/usr/lib/systemd/{name}", "[Journal]\nStorage=volatile\n")
    assert [state for state, _ in states_of(machine)] == ["ok"]
    machine.write("/etc/systemd/journald.conf.d/80-own.conf", "[Journal]\nStorage=persistent\n")
    assert [state for state, _ in states_of(machine)] == ["warning"]
    machine.write("/etc/systemd/journald.conf.d/80-own.conf", "[Journal]\n")
    machine.write(f"/etc/systemd/{name}", "[Journal]\nStorage=persistent\n")
    assert [state for state, _ in states_of(machine)] == ["warning"]


def test_journal_that_log2ram_keeps_in_memory_is_no_fault(machine: Machine) -> None:
    machine.write("/proc/mounts", SD.format("rw") + "log2ram /var/log tmpfs rw 0 0\n")
    (machine.root / "var/log/journal").mkdir(parents=True)
    assert [state for state, _ in states_of(machine)] == ["ok"]


def test_other_disks_are_not_told_of_wear(machine: Machine) -> None:
    machine.write("/proc/mounts", "/dev/nvme0n1p2 / ext4 rw 0 0\n")
    assert states_of(machine) == [("skipped", "the root is not on one (/dev/nvme0n1p2)")]


@pytest.mark.parametrize(
    ("life", "spare", "state"),
    [("0x01 0x01", "0x01", "ok"), ("0x03 0x0a", "0x01", "error"), ("0x02 0x02", "0x02", "error")],
)
def test_worn_emmc_is_told(machine: Machine, life: str, spare: str, state: str) -> None:
    machine.write("/sys/block/mmcblk0/device/life_time", f"{life}\n")
    machine.write("/sys/block/mmcblk0/device/pre_eol_info", f"{spare}\n")
    assert states_of(machine)[0][0] == state


def groups(machine: Machine, *, gid: int, members: str) -> None:
    machine.write("/etc/passwd", SERVICE_USER)
    machine.write("/etc/group", f"video:x:{gid}:{members}\nrender:x:99991:\nplugdev:x:99992:edge-detector\n")


def of_service(machine: Machine) -> tuple[str, str, str | None]:
    (found,) = [one for one in machine.check(access.check_groups) if one.found.startswith("service")]
    return found.state, found.found, found.command


def test_group_that_the_service_lacks_is_told_where_its_devices_are(machine: Machine) -> None:
    groups(machine, gid=os.getgid(), members="")
    assert of_service(machine)[0] == "ok"  # there is nothing that it could open
    machine.write("/dev/video0").chmod(0o660)
    state, found, command = of_service(machine)
    assert (state, command) == ("error", "sudo usermod -aG video edge-detector")
    assert found == "service: edge-detector is in plugdev, not in video, whose devices are there"
    groups(machine, gid=os.getgid(), members="ada,edge-detector")
    assert of_service(machine)[0] == "ok"


def test_group_may_be_given_by_the_unit(machine: Machine) -> None:
    groups(machine, gid=os.getgid(), members="")
    machine.write("/dev/video0").chmod(0o660)
    machine.unit("User=edge-detector\nSupplementaryGroups=video render plugdev")
    assert of_service(machine)[0] == "ok"


def test_user_who_runs_the_check_is_told_of_his_groups_too(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    groups(machine, gid=os.getgid(), members="")
    machine.write("/dev/video0").chmod(0o660)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)  # in no group
    monkeypatch.setattr(os, "getegid", lambda: 4711)
    monkeypatch.setattr(os, "getgroups", list)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    found = machine.check(access.check_groups)[0]
    assert (found.state, found.command) == ("error", "sudo usermod -aG video 4711")
    assert "log in again" in str(found.fix)


def test_without_a_service_its_user_is_skipped(machine: Machine) -> None:
    assert machine.check(access.check_groups)[-1].state == "skipped"
