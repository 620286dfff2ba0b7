"""Every example is run, or read as the program that it is for reads it."""

from __future__ import annotations

import asyncio
import configparser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types
import xml.etree.ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest
import ros_pictures

from brixel_edge.commands.ros import build_parser
from brixel_edge.commands.run import build_parser as parser_of_run
from brixel_edge.errors import BackendMissing, BundleError, ParityError, SpecError
from brixel_edge.runtimes.ros.parameters import NodeParameters, assignment
from brixel_edge.runtimes.ros.wire.messages import FeatureMapMessage, definition

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
UNIT = (EXAMPLES / "brixel.service").read_text(encoding="utf-8")
DOCKER = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tmp_path):
    return str(ros_pictures.tiny_graph(tmp_path / "tiny.onnx"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_a_page(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


def test_the_plain_loop_follows_what_was_in_the_middle(tiny, capsys):
    assert load(EXAMPLES / "loop.py").main("test:pattern", tiny, frames=3) == 3
    first = capsys.readouterr().out.splitlines()[0]
    assert "score 1.00" in first  # of the map that it was taken from


def test_the_event_loop_goes_on_while_the_model_runs(tiny, capsys):
    seen, beats = asyncio.run(load(EXAMPLES / "asyncio_loop.py").main("test:pattern", tiny, frames=4))
    assert seen == 4 and beats >= 4
    assert len(capsys.readouterr().out.splitlines()) == 4


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment]  # names of units keep their case
    parser.read_string(UNIT)
    return parser


def test_systemd_s_unit_is_a_notifying_service_that_is_watched():
    service = unit()["Service"]
    assert (service["Type"], service["KillSignal"]) == ("notify", "SIGINT")
    assert int(service["WatchdogSec"]) >= 10
    never = {error.exit_code for error in (SpecError, BundleError, BackendMissing, ParityError)}
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == never
    program, *arguments = service["ExecStart"].split()[1:]
    assert program.endswith("/brixel-run")
    parser_of_run().parse_args(arguments)


def test_systemd_accepts_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    path = tmp_path / "brixel.service"
    path.write_text(UNIT)
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True)
    told = [line for line in (run.stdout + run.stderr).splitlines() if "brixel.service" in line]
    assert run.returncode == 0 and not told, run.stderr


def steps() -> list[tuple[str, str]]:
    """Instruction and argument, lines that go on joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKER, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def test_the_image_is_small_named_and_not_run_by_root():
    instructions = [name for name, _ in steps()]
    known = {"FROM", "COPY", "RUN", "ENV", "USER", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert instructions[0] == "FROM" and set(instructions) <= known
    values = dict(steps())
    assert values["USER"] != "root" and instructions.index("USER") < instructions.index("ENTRYPOINT")
    for image in (value.split()[0] for name, value in steps() if name == "FROM"):
        assert re.fullmatch(r"[\w.-]+:\d[\w.-]*", image), f"{image} has no release"
    for value in (value for name, value in steps() if name == "RUN"):
        assert "pip install" not in value or "--no-cache-dir" in value
        assert "sudo" not in value and "torch" not in value
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(values[name]), list)  # the exec form: signals reach the program
    parser_of_run().parse_args(json.loads(values["CMD"]))
    health = json.loads(values["HEALTHCHECK"].split("CMD", 1)[1])
    scripts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f"\n{program} = " in scripts for program in (*health, *json.loads(values["ENTRYPOINT"])))


def test_the_image_s_python_is_one_that_the_wheel_takes():
    versions = {re.search(r"python:3\.(\d+)", value)[1] for name, value in steps() if name == "FROM"}
    assert all(int(version) >= 10 for version in versions) and len(versions) == 1


class Said:
    """A part of a launch description, with what it was made from."""

    def __init__(self, *values, **named):
        self.values, self.named = values, named


def acted_modules(monkeypatch, **modules):
    for name, content in modules.items():
        module = types.ModuleType(name.replace("__", "."))
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name.replace("__", "."), module)


def test_the_launch_file_starts_the_node_with_what_was_given(monkeypatch):
    given = {"model": "m.brixel", "image": "/left/image_raw", "query": "3,4", "namespace": "/robot"}
    acted_modules(
        monkeypatch,
        launch={"LaunchDescription": Said},
        launch__actions={
            "DeclareLaunchArgument": type("Declare", (Said,), {}),
            "ExecuteProcess": type("Run", (Said,), {}),
        },
        launch__substitutions={"LaunchConfiguration": Said},
    )
    [parts] = load(EXAMPLES / "ros2" / "brixel.launch.py").generate_launch_description().values
    declared = {part.values[0]: part.named["default_value"] for part in parts if type(part).__name__ == "Declare"}
    [process] = [part for part in parts if type(part).__name__ == "Run"]
    values = declared | given

    def text(part):
        if isinstance(part, list):
            return "".join(map(text, part))
        return values[part.values[0]] if isinstance(part, Said) else part

    command = [text(part) for part in process.named["cmd"]]
    assert command[0] == "brixel-ros"
    arguments = build_parser().parse_args(command[1:])
    parameters = NodeParameters().changed(dict(assignment(entry) for entry in arguments.set))
    assert (parameters.model, parameters.image_topic, parameters.query) == ("m.brixel", "/left/image_raw", "3,4")
    assert arguments.ros_args == ["-r", "__ns:=/robot"] and arguments.transport == "rclpy"


def test_the_steering_node_turns_towards_the_best_match(monkeypatch):
    sent = []

    class Node:
        def __init__(self, name):
            self.name = name

        def declare_parameter(self, name, default):
            self.default = default

        def get_parameter(self, name):
            return SimpleNamespace(value=self.default)

        def create_publisher(self, kind, topic, depth):
            return SimpleNamespace(publish=sent.append)

        def create_subscription(self, kind, topic, callback, depth):
            self.hear = callback

    acted_modules(
        monkeypatch,
        rclpy={"init": None, "spin": None},
        rclpy__node={"Node": Node},
        geometry_msgs={},
        geometry_msgs__msg={"Twist": lambda: SimpleNamespace(angular=SimpleNamespace(z=0.0))},
        std_msgs={},
        std_msgs__msg={"String": SimpleNamespace},
    )
    node = load(EXAMPLES / "ros2" / "steer.py").Steer()
    for matches in (
        [{"score": 0.9, "point": [220, 1]}, {"score": 0.7, "point": [400, 1]}],
        [{"score": 0.1, "point": [9, 9]}],
    ):
        node.hear(SimpleNamespace(data=json.dumps({"matches": matches})))
    assert [command.angular.z for command in sent] == [pytest.approx(0.2), 0.0]


def test_the_message_for_ros_is_the_one_that_is_sent():
    text = (EXAMPLES / "ros2" / "brixel_msgs" / "msg" / "FeatureMap.msg").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if not line.startswith("#")] == definition(
        FeatureMapMessage
    ).splitlines()


def test_the_package_of_messages_names_what_it_needs():
    folder = EXAMPLES / "ros2" / "brixel_msgs"
    package = xml.etree.ElementTree.parse(folder / "package.xml").getroot()
    assert package.findtext("name") == "brixel_msgs"
    assert package.findtext("member_of_group") == "rosidl_interface_packages"
    cmake = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    assert all(os.path.exists(folder / name) for name in re.findall(r'"(msg/\w+\.msg)"', cmake))  # noqa: PTH110
