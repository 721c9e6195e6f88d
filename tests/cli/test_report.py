"""`edgekit profile`, `report` and `demo`."""

import json
import shutil
import stat

import msgspec
import pytest

from edgekit.profiler import load_profile


@pytest.fixture(scope="session")
def profile(bundle, tmp_path_factory):
    """Measure the bundle once, on one sentence that ships with EdgeKit, as fast as it is taken."""
    from edgekit.cli import main
    from edgekit.resources import resource

    path = tmp_path_factory.mktemp("profile") / "p.json"
    clip = resource("export/clips/librivox-0880.flac")
    with pytest.raises(SystemExit) as end:
        main(["profile", str(bundle), str(clip), "-o", str(path), "--no-realtime", "--repeat", "1", "--warmup", "0"])
    assert end.value.code == 0
    return path


def test_profile_writes_a_profile_of_the_bundle(profile):
    measured = load_profile(profile)
    assert measured.bundle.name == "tiny"
    assert not measured.settings.paced
    assert measured.metric("real_time_factor").p50 > 0
    assert stat.S_IMODE(profile.stat().st_mode) == 0o600


def test_profile_refuses_a_file_without_speech(cli, bundle, wav, tmp_path):
    code, out, err = cli("profile", bundle, wav(samples=[0.0] * 16_000), "-o", tmp_path / "p.json")
    assert (code, out) == (1, "")
    assert "nothing but silence" in err
    assert not (tmp_path / "p.json").exists()


def test_report_renders_every_format_from_the_same_profile(cli, profile, tmp_path):
    code, markdown, err = cli("report", profile)
    assert (code, err) == (0, "")
    assert markdown.startswith("# Latency of tiny")
    assert cli("report", profile, "-o", tmp_path / "r.md") == (0, f"{tmp_path / 'r.md'}: written\n", "")
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == markdown
    assert [cli("report", profile, "-o", tmp_path / f"r.{kind}")[0] for kind in ("html", "json")] == [0, 0]
    assert stat.S_IMODE((tmp_path / "r.json").stat().st_mode) == 0o600
    assert (tmp_path / "r.html").read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    code, out, _ = cli("report", profile, profile, "-f", "json")
    assert code == 0
    assert len(json.loads(out)) == 2
    assert msgspec.convert(json.loads(out)[0], type(load_profile(profile))) == load_profile(profile)


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "No such file or directory, a profile is needed"), ("[]", ""), ("{", ""), ('{"schema_version": 99}', "99")],
)
def test_what_is_no_profile_is_one_line_that_names_it(cli, tmp_path, content, part):
    path = tmp_path / "p.json"
    if content is not None:
        path.write_text(content)
    code, out, err = cli("report", path)
    assert (code, out) == (1, "")
    assert err.startswith(f"edgekit: {path}: ")
    assert part in err
    assert err.count("\n") == 1


def test_an_unknown_ending_names_the_known_ones(cli, profile, tmp_path):
    code, _, err = cli("report", profile, "-o", tmp_path / "r.pdf")
    assert code == 2
    assert err == f"edgekit: {tmp_path / 'r.pdf'}: ends in '.pdf', known are .md, .html, .json; or pass --format\n"


@pytest.mark.slow
def test_the_demo_shows_census_text_figures_and_report(program, bundle, tmp_path):
    """Twenty seconds of speech at the speed of sound; the export itself is left to test_export.py."""
    shutil.copytree(bundle, tmp_path / "bundles/edgekit-tiny-int8")
    process = program("demo")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "is there already, every file checked" in out
    assert "of their float32 bytes" in out
    assert "what was read: and mister john dashwood" in out
    report = tmp_path / "bundles/edgekit-tiny-int8.report.html"
    assert f"report: {report}" in out
    assert "<svg" in report.read_text(encoding="utf-8")
    assert "edgekit run bundles/edgekit-tiny-int8 FILE" in out
    assert "\x1b" not in out + err


def test_a_bundle_in_place_of_a_profile_is_told_how_to_measure_it(cli, tmp_path):
    code, out, err = cli("report", tmp_path)
    assert (code, out) == (1, "")
    assert err.endswith(
        f"a profile is needed; of a bundle make one with `edgekit profile {tmp_path} -o profile.json`\n"
    )


def test_a_demo_without_its_checkpoint_says_what_to_install(program, tmp_path):
    package = tmp_path / "edgekit_tiny"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from pathlib import Path\ndef checkpoint():\n    return Path(__file__).parent / 'none'\n"
    )
    process = program("demo")  # runs in tmp_path, whose edgekit_tiny comes first
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("edgekit: edgekit_tiny is not installed, it holds the weights of edgekit-tiny; ")
    assert err.endswith("pip install ./models/edgekit-tiny\n")


def test_a_demo_that_may_not_write_is_one_line(program, tmp_path):
    (tmp_path / "bundles").write_text("a file")
    process = program("demo")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("edgekit: bundles/edgekit-tiny-int8: cannot be created")
    assert err.count("\n") == 1
