"""`edgekit run`: text of files, the same as the library's, and every kind of bad file."""

import json
import signal

import numpy as np
import pytest
import soundfile

import edgekit


def test_run_prints_the_text_that_the_library_gives(cli, bundle, wav):
    path = wav()
    expected = edgekit.load(bundle).transcribe(path)
    code, out, err = cli("run", bundle, path)
    assert (code, out, err) == (0, expected.text + "\n", "")
    assert expected.text


def test_at_the_speed_of_sound_the_text_is_the_same(cli, bundle, wav):
    path = wav(samples=np.random.default_rng(1).uniform(-0.3, 0.3, 3200))
    assert cli("run", bundle, path, "--realtime", "--level", "full") == cli("run", bundle, path, "--level", "full")


def test_json_lines_hold_every_event_and_the_last_text_is_final(cli, bundle, wav):
    code, out, _ = cli("run", bundle, wav(), "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [event["event"] for event in events if event["event"] != "text"] == [
        "speech_started", "speech_stopped", "text_cut",
    ]  # fmt: skip
    assert events[-1]["reason"] == "rate"
    texts = [event for event in events if event["event"] == "text"]
    assert [text["final"] for text in texts] == [False] * (len(texts) - 1) + [True]
    assert texts[-1]["tokens"]
    assert texts[-1]["end_s"] == pytest.approx(0.5)


def test_the_end_of_speech_is_told_before_the_text_of_what_was_said(cli, bundle, wav):
    sound = np.random.default_rng(3).uniform(-0.3, 0.3, 16_000)
    path = wav(samples=np.concatenate([sound, np.zeros(32_000), sound]))
    for command in (("run", bundle, path), ("run", bundle, path, "--partials"), ("listen", bundle, "--simulate", path)):
        _, out, _ = cli(*command, "--json", "--gate", "sound")
        events = [json.loads(line) for line in out.splitlines()]
        order = [event["event"] for event in events if event["event"] != "text" or event["final"]]
        early = order.count("provisional")
        assert early == (1 if command[0] == "listen" else 0), "the second is over with the file"
        assert [kind for kind in order if kind != "provisional"] == [
            "speech_started", "speech_stopped", "text", "text_cut",
        ] * 2  # fmt: skip


def test_partials_come_in_order_while_it_is_spoken_and_leave_the_text_as_it_is(cli, bundle, wav):
    path = wav(samples=np.random.default_rng(3).uniform(-0.3, 0.3, 32_000))
    _, expected, _ = cli("run", bundle, path)
    assert cli("run", bundle, path, "--partials") == (0, expected, "")
    code, out, _ = cli("run", bundle, path, "--partials", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert events[0]["event"] == "speech_started"
    drafts = [event for event in events if event["event"] == "text" and event["end_s"] < 2.0]
    assert drafts
    assert not any(draft["final"] for draft in drafts)
    assert all(0 <= draft["stable"] <= len(draft["text"]) for draft in drafts)
    _, out, _ = cli("run", bundle, path, "--json")
    assert not any('"end_s": 2.0' not in line for line in out.splitlines() if '"text"' in line)


def test_several_files_are_told_apart_and_a_bad_one_stops_nothing(cli, bundle, wav, tmp_path):
    good, missing = wav("good.wav"), tmp_path / "missing.wav"
    _, text, _ = cli("run", bundle, good)
    code, out, err = cli("run", bundle, good, missing, good)
    assert code == 1
    assert out == f"{good}: {text}" * 2
    assert err == f"edgekit: {missing}: no such file, a recording is needed; check the path\n"


def test_files_that_the_system_refuses_stop_nothing(cli, bundle, wav, tmp_path):
    good = wav("good.wav")
    _, text, _ = cli("run", bundle, good)
    code, out, err = cli("run", bundle, tmp_path / ("x" * 300), tmp_path, good / "under-a-file", good)
    assert (code, out) == (1, f"{good}: {text}")
    assert [line.split(": ")[2].split(",")[0] for line in err.splitlines()] == [
        "File name too long", "is a folder", "no such file",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "shape",
    [(96_000, 1, "PCM_24"), (8_000, 10, "PCM_U8"), (44_100, 2, "PCM_16"), (16_000, 1, "DOUBLE"), (11_025, 1, "ULAW")],
)
def test_every_rate_width_and_number_of_channels_is_heard(cli, bundle, wav, shape):
    rate, channels, subtype = shape
    samples = np.random.default_rng(2).uniform(-0.3, 0.3, (rate // 4, channels))
    code, out, err = cli("run", bundle, wav("odd.wav", samples, rate, subtype))
    assert (code, err) == (0, "")
    assert out.strip()


def _empty(path):
    path.write_bytes(b"")


def _no_samples(path):
    soundfile.write(path, np.zeros(0), 16_000)


def _text(path):
    path.write_text("this is not sound\n" * 50)


def _random(path):
    path.write_bytes(np.random.default_rng(0).bytes(4000))


def _truncated(path):
    soundfile.write(path, np.zeros(16_000), 16_000)
    path.write_bytes(path.read_bytes()[:9_000])


def _header_only(path):
    soundfile.write(path, np.zeros(16_000), 16_000)
    path.write_bytes(path.read_bytes()[:30])


def _truncated_flac(path):
    samples = np.random.default_rng(0).uniform(-1, 1, 48_000)
    soundfile.write(path, samples, 16_000, format="FLAC")
    path.write_bytes(path.read_bytes()[:20_000])


def _truncated_ogg(path):
    samples = np.random.default_rng(0).uniform(-1, 1, 48_000)
    soundfile.write(path, samples, 16_000, format="OGG")
    path.write_bytes(path.read_bytes()[:-500])


def _nan(path):
    samples = np.zeros(16_000)
    samples[777] = np.nan
    soundfile.write(path, samples, 16_000, subtype="FLOAT", format="WAV")


def _infinite(path):
    samples = np.zeros((16_000, 2))
    samples[-1, 1] = -np.inf
    soundfile.write(path, samples, 16_000, subtype="FLOAT", format="WAV")


def _folder(path):
    path.mkdir()


_BAD = (
    _empty, _no_samples, _text, _random, _truncated, _header_only, _truncated_flac, _truncated_ogg, _nan, _infinite,
    _folder,
)  # fmt: skip
# At the speed of sound only those that are found out at once: the others would play for seconds before their damage.
_PACED = (_empty, _no_samples, _text, _truncated, _folder)


@pytest.mark.parametrize(
    ("spoil", "arguments"), [*((spoil, ()) for spoil in _BAD), *((spoil, ("--realtime",)) for spoil in _PACED)]
)
def test_a_bad_file_is_one_line_that_names_it_and_exits_1(cli, bundle, tmp_path, spoil, arguments):
    path = tmp_path / "bad.wav"
    spoil(path)
    code, _, err = cli("run", bundle, path, *arguments)
    assert code == 1
    assert err.startswith(f"edgekit: {path}: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--level", "best"), "level: 'best' is not in this bundle; choose one of: "),
        (("--prompt", "what?"), "prompt: 'what?', this bundle has no choice of prompt; leave it out"),
        (("--language", "en"), "language: 'en' is not in this bundle; it has no choice of language: leave it out"),
    ],
)
def test_an_option_that_the_bundle_does_not_offer_exits_2(cli, bundle, wav, arguments, line):
    code, out, err = cli("run", bundle, wav(), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"edgekit: {line}")


def test_an_unknown_bundle_is_one_line_that_says_how_to_make_one(cli, wav, tmp_path):
    code, out, err = cli("run", tmp_path / "none", wav())
    assert (code, out) == (1, "")
    assert "no such folder; make one with `edgekit export CHECKPOINT -o" in err
    assert err.count("\n") == 1


def test_speech_of_a_bundle_that_only_writes_is_refused_and_nothing_is_written(cli, bundle, wav, tmp_path):
    path = wav()
    for command in (
        ("run", bundle, path, "--speak", tmp_path / "out.wav"),
        ("listen", bundle, "--simulate", path, "--speak"),
    ):
        code, out, err = cli(*command)
        assert (code, out) == (2, "")
        assert err == "edgekit: speak: tiny writes and does not speak; leave it out or choose another bundle\n"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["talk.wav"]


def test_one_file_of_speech_for_several_recordings_is_refused(cli, bundle, wav, tmp_path):
    code, out, err = cli("run", bundle, wav("a.wav"), wav("b.wav"), "--speak", tmp_path / "out.wav")
    assert (code, out) == (2, "")
    assert err.startswith(f"edgekit: --speak: {tmp_path / 'out.wav'} for 2 files, it holds the answers to one; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_after_the_text_of_what_was_heard(program, bundle, wav, number):
    path = wav("long.wav", np.random.default_rng(1).uniform(-0.3, 0.3, 16_000 * 60))
    process = program("run", bundle, path, path, path, "--realtime", "--json")
    first = json.loads(process.stdout.readline())
    assert first["event"] == "speech_started"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    last = [event for event in map(json.loads, out.splitlines()) if event["event"] == "text"][-1]
    assert (last["event"], last["final"], last["file"]) == ("text", True, str(path))
    stopped, left = err.splitlines()
    heard_s = float(stopped.removeprefix(f"edgekit: {path}: stopped after ").removesuffix(" s, its text is of these"))
    assert heard_s == pytest.approx(last["end_s"], abs=0.06)
    assert left == f"edgekit: not run: 2 of 3 files, from {path} on"


def test_an_option_without_effect_is_refused(cli, bundle, wav, tmp_path):
    path = wav()
    plans = f"edgekit: plans: {tmp_path}, onnxruntime-cpu runs the bundle as it is; leave them out\n"
    for command in (
        ("run", bundle, path),
        ("listen", bundle, "--simulate", path),
        ("verify", bundle),
        ("profile", bundle, path, "-o", tmp_path / "profile.json"),
    ):
        assert cli(*command, "--plans", tmp_path) == (2, "", plans)
    assert cli("listen", bundle, "--device", "usb", "--simulate", path) == (
        2, "", f"edgekit: --device usb: --simulate plays {path} in place of a microphone; leave one out\n",
    )  # fmt: skip


def test_partials_of_a_bundle_that_hears_all_at_once_are_refused_where_they_are_asked_for(cli, exact_bundle, wav):
    path = wav()
    line = "partials: tiny writes nothing before an utterance is over: it hears 30 s at once; leave them out\n"
    assert cli("run", exact_bundle, path, "--partials") == (2, "", f"edgekit: {line}")
    assert cli("listen", exact_bundle, "--simulate", path, "--partials") == (2, "", f"edgekit: stream.{line}")
    for command in (("run", exact_bundle, path), ("listen", exact_bundle, "--simulate", path)):
        code, out, _ = cli(*command, *(["--realtime"] if "run" in command else []))
        assert code == 0
        assert out.strip()
