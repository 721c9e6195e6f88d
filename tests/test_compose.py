"""The compose file: what a container may do, that it is stopped in time, and that its commands are commands."""

import os
import re
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from edgekit.cli.group import Invocation, edgekit
from edgekit.serving.server import STOP_S

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "runtimes/cpu/compose.yaml"
COMPOSE = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def filled(text):
    """Return a text with the defaults of its variables, as compose fills it in."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_rights_of_its_own_and_writes_nothing(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "ports", "pid", "ipc", "userns_mode", "user"} & service.keys()
    mounts = [filled(one).rsplit(":", 2) for one in service["volumes"]]
    assert all(mode == "ro" for _, _, mode in (one for one in mounts if "/dev/snd" not in one))


def test_the_microphone_is_given_to_who_listens_alone():
    of = {name: [one for one in service["volumes"] if "snd" in one] for name, service in SERVICES.items()}
    assert of == {"edgekit": [], "edgekit-listen": ["/dev/snd:/dev/snd"]}
    listening = SERVICES["edgekit-listen"]
    assert listening["device_cgroup_rules"] == ["c 116:* rw"]  # ALSA's, in the kernel's devices.txt
    assert [filled(one) for one in listening["group_add"]] == ["29"]
    assert listening["profiles"] == ["microphone"]
    assert not {"device_cgroup_rules", "group_add", "devices"} & SERVICES["edgekit"].keys()


def test_no_word_that_is_heard_goes_to_docker_s_log_which_is_a_file(tmp_path):
    program = tmp_path / "edgekit"
    program.write_text('#!/bin/sh\necho "a word"\necho "$@" >&2\n')
    program.chmod(0o755)
    words = [one.replace("$$", "$") for one in SERVICES["edgekit-listen"]["entrypoint"]]  # as compose reads them
    done = subprocess.run(
        [*words, "listen", "/a b"], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "listen /a b\n")


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_comes_back_and_is_killed_only_once_what_was_said_is_finished(name):
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert float(service["stop_grace_period"].removesuffix("s")) > STOP_S + 1


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_listens_at_loopback_with_a_token_unless_somebody_says_otherwise(name):
    words = [filled(one) for one in SERVICES[name]["command"]]
    hosts = [word.partition("=")[2].rpartition(":")[0] for word in words if word.startswith(("--http", "--wyoming"))]
    assert set(hosts) == {"127.0.0.1"}
    assert "--token-file=/run/secrets/token" in words
    assert SERVICES[name]["secrets"] == ["token"]
    assert Path(filled(COMPOSE["secrets"]["token"]["file"])).is_absolute()  # in no folder that an image is made of


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_container_runs_is_a_command_with_these_options(name):
    command, *words = [filled(one) for one in SERVICES[name]["command"]]
    with click.Context(edgekit, info_name="edgekit", obj=Invocation(), **edgekit.context_settings) as context:
        found = edgekit.get_command(context, command)
        options = {flag for parameter in found.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_made_by_the_dockerfile_beside_it(name):
    build = SERVICES[name]["build"]
    context = (FILE.parent / build["context"]).resolve()
    assert (context, (context / build["dockerfile"]).resolve()) == (ROOT, FILE.parent / "Dockerfile")


@pytest.mark.parametrize("name", SERVICES)
def test_the_health_check_is_python_that_asks_the_container_s_own_server(name):
    program, *_, text = SERVICES[name]["healthcheck"]["test"]
    assert program == "CMD"
    compile(text, str(FILE), "exec")
    (http,) = [filled(one) for one in SERVICES[name]["command"] if one.startswith("--http")]
    assert f"http://{http.partition('=')[2]}/health" in text
