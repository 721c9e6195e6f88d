"""keygen, sign, and the commands that take only a bundle that is signed."""

import json
import shutil

import pytest

from tests.cli.conftest import RECIPE


@pytest.fixture
def acme(cli, tmp_path):
    """Make a key pair by the command and return the path without an ending."""
    name = tmp_path / "keys" / "acme"
    code, _, err = cli("keygen", "-o", name)
    assert (code, err) == (0, "")
    return name


@pytest.fixture
def key_here(acme, monkeypatch):
    """Make acme's folder the current one and return the path without an ending."""
    monkeypatch.chdir(acme.parent)
    return acme


@pytest.fixture
def signed(cli, bundle, acme, tmp_path):
    """Return a copy of the bundle that acme has signed."""
    copy = shutil.copytree(bundle, tmp_path / "signed")
    code, _, err = cli("sign", copy, "--key", f"{acme}.key")
    assert (code, err) == (0, "")
    return copy


@pytest.fixture
def command(wav, tmp_path):
    """Return a function: the words of a command that opens a bundle for use. Nothing of this user is trusted."""
    recording = wav()

    def words(name, bundle):
        return {
            "run": ("run", bundle, recording),
            "listen": ("listen", bundle, "--simulate", recording),
            "verify": ("verify", bundle),
            "profile": ("profile", bundle, recording, "-o", tmp_path / "p.json", "--repeat", 1, "--warmup", 0,
                        "--no-realtime"),
            "build": ("build", bundle, "--target", "desktop-rtx"),
        }[name]  # fmt: skip

    return words


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Return this user's trust store, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "edgekit" / "trust"


def test_keygen_tells_the_fingerprint_and_replaces_no_key(cli, tmp_path):
    code, out, err = cli("keygen", "-o", tmp_path / "acme")
    assert (code, err) == (0, "")
    name, fingerprint = out.strip().split(": ")
    assert name == str(tmp_path / "acme.pub")
    assert len(fingerprint) == len("SHA256:") + 64
    assert cli("keygen", "-o", tmp_path / "acme") == (
        1, "", f"edgekit: {tmp_path}/acme.key: is there already, and a key is never replaced; choose another name\n"
    )  # fmt: skip


@pytest.mark.parametrize("name", [".", "/", ".."])
def test_keys_without_a_name_are_refused(cli, name):
    code, out, err = cli("keygen", "-o", name)
    assert (code, out) == (1, "")
    assert err.endswith("is no name of a file, NAME.key and NAME.pub are written; choose one, such as acme\n")


def test_signing_tells_whose_key_it_was_and_what_was_there(cli, bundle, acme, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    code, out, _ = cli("sign", copy, "--key", f"{acme}.key")
    assert code == 0
    assert out.startswith(f"{copy}: signed by {acme}.key SHA256:")
    assert out.count("\n") == 1
    assert cli("sign", copy, "--key", f"{acme}.key")[1] == out.replace("\n", ", as it was already\n")
    cli("keygen", "-o", tmp_path / "bell")
    code, out, err = cli("sign", copy, "--key", tmp_path / "bell.key")
    assert (code, out) == (1, "")
    assert err.endswith("manifest.sig: is there already, by another key or of another manifest; pass --overwrite\n")
    code, out, err = cli("sign", copy, "--key", tmp_path / "bell.key", "--overwrite")
    assert (code, err) == (0, "")
    assert out.endswith(", in place of the signature that was there\n")


@pytest.mark.parametrize("name", ["run", "listen", "verify", "profile"])
def test_a_command_takes_a_bundle_that_is_signed_by_a_trusted_key(cli, signed, acme, command, name):
    code, _, err = cli(*command(name, signed), "--trust", f"{acme}.pub")
    assert code == 0, err


@pytest.mark.parametrize("name", ["run", "listen", "verify", "profile", "build"])
def test_a_command_takes_no_bundle_without_a_signature_where_one_is_required(cli, bundle, acme, command, name):
    for required in (("--trust", f"{acme}.pub"), ("--require-signature", "--trust", acme.parent)):
        code, out, err = cli(*command(name, bundle), *required)
        assert (code, out) == (1, "")
        assert err.startswith(f"edgekit: {bundle}: is not signed, a signature by a trusted key is required; ")
        assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["run", "listen", "verify", "profile", "build"])
def test_an_empty_name_of_a_key_trusts_nothing_that_lies_here(cli, signed, key_here, command, name):
    said = "Invalid value for '--trust': is empty, a path is needed; is a variable unset?"
    for trusted in (("--trust", ""), ("--trust", f"{key_here}.pub", "--trust", "", "--require-signature")):
        code, out, err = cli(*command(name, signed), *trusted)
        assert (code, out) == (2, "")
        assert err == f"edgekit {name}: {said}; see `edgekit {name} --help`\n"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("name", ["run", "listen", "verify", "profile", "build"])
def test_a_store_without_a_key_is_no_way_around_the_check(cli, signed, command, name):
    code, out, err = cli(*command(name, signed), "--require-signature")
    assert (code, out) == (1, "")
    assert err.startswith("edgekit: --require-signature: no key is trusted here; copy the signer's NAME.pub to ")
    assert err.count("\n") == 1


def test_the_trust_store_is_used_where_no_key_is_named(cli, signed, acme, store):
    store.mkdir(parents=True)
    shutil.copy(f"{acme}.pub", store)
    code, out, _ = cli("verify", signed, "--require-signature")
    assert code == 0
    assert out.startswith(f"{signed}: signed by acme.pub SHA256:")
    code, out, _ = cli("verify", signed, "--require-signature", "--json")
    assert json.loads(out)["signer"].startswith("acme.pub SHA256:")


def test_a_key_with_a_passphrase_takes_it_from_the_environment(cli, signed, acme, monkeypatch):
    from cryptography.hazmat.primitives import serialization as forms

    plain = acme.with_suffix(".key")
    key = forms.load_pem_private_key(plain.read_bytes(), None)
    lock = forms.BestAvailableEncryption(b"a secret")
    plain.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, lock))
    code, _, err = cli("sign", signed, "--key", plain)  # stdin is no terminal
    assert (code, err.count("\n")) == (1, 1)
    assert "has a passphrase, and none is given; sign on a terminal, or set EDGEKIT_PASSPHRASE" in err
    monkeypatch.setenv("EDGEKIT_PASSPHRASE", "a secret")
    assert cli("sign", signed, "--key", plain)[1].endswith(", as it was already\n")


def test_an_export_over_a_signed_bundle_is_not_signed(cli, checkpoint, acme, tmp_path):
    folder = tmp_path / "bundle"
    export = ("export", checkpoint, "-o", folder, "--recipe", RECIPE, "--precision", "float32", "--overwrite")
    assert cli(*export)[0] == 0
    assert cli("sign", folder, "--key", f"{acme}.key")[0] == 0
    assert cli(*export)[0] == 0
    assert not (folder / "manifest.sig").exists()
