"""Signatures of bundles: whose are taken, what is refused and in which words; OpenSSL's command as the reference."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

import edgekit
from edgekit.atomic import write_new
from edgekit.bundle import open_bundle
from edgekit.bundle import trust as trusting
from edgekit.bundle.keys import make_keys, read_private, read_public
from edgekit.bundle.signing import sign_bundle
from edgekit.bundle.trust import read_trust, store_folders
from edgekit.errors import (
    BundleFileError,
    BundleFormatError,
    KeyFileError,
    MissingPackageError,
    OutputError,
    SignatureError,
    UsageError,
)


@pytest.fixture
def keys(tmp_path_factory):
    """Return a function that makes a key pair of a name and returns its private and its public file."""
    folder = tmp_path_factory.mktemp("keys")

    def make(name):
        public = make_keys(folder / name).path
        return public.with_suffix(".key"), public

    return make


@pytest.fixture
def signed(tiny_bundle, keys):
    """Return the folder of a bundle that acme has signed, and acme's public key."""
    private, public = keys("acme")
    folder = tiny_bundle().folder
    assert sign_bundle(folder, read_private(private)) is False
    return folder, public


@pytest.fixture
def openssl(tmp_path):
    """Run OpenSSL's command and return it, done; what it is to write, it writes to tmp_path."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl here")

    def run(*arguments):
        return subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=tmp_path
        )  # fmt: skip

    return run


def test_a_signed_bundle_is_taken_and_says_whose_it_is(signed):
    folder, public = signed
    signer = open_bundle(folder, trust=read_trust(public)).signer
    assert signer.path == public
    assert signer.fingerprint == read_public(public).fingerprint
    assert edgekit.load(folder, threads=1, trust=public).bundle.signer == signer
    assert open_bundle(folder).signer is None


def test_openssl_takes_a_signature_of_ours_and_refuses_it_for_another_manifest(signed, openssl):
    folder, public = signed
    command = (
        "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", folder / "manifest.json", "-sigfile",
        folder / "manifest.sig",
    )  # fmt: skip
    assert openssl(*command).returncode == 0
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes() + b" ")
    assert openssl(*command).returncode != 0


def test_a_key_and_a_signature_of_openssl_s_are_taken(tiny_bundle, openssl, tmp_path):
    folder = tiny_bundle().folder
    key, public = tmp_path / "theirs.key", tmp_path / "theirs.pub"
    assert openssl("genpkey", "-algorithm", "ed25519", "-out", key).returncode == 0
    assert openssl("pkey", "-in", key, "-pubout", "-out", public).returncode == 0
    done = openssl(
        "pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", folder / "manifest.json", "-out", folder / "manifest.sig"
    )
    assert done.returncode == 0
    assert open_bundle(folder, trust=read_trust(public)).signer.path == public
    key.chmod(0o600)
    assert sign_bundle(folder, read_private(key)) is True  # the same to the bit
    der = tmp_path / "theirs.der"
    assert openssl("pkey", "-pubin", "-in", public, "-outform", "DER", "-out", der).returncode == 0
    assert f"= {read_public(public).fingerprint.removeprefix('SHA256:')}\n" in openssl("dgst", "-sha256", der).stdout


def test_keys_are_only_their_owner_s_and_are_never_replaced(keys, tmp_path):
    mask = os.umask(0)
    try:
        private, public = keys("acme")
    finally:
        os.umask(mask)
    assert [path.stat().st_mode & 0o777 for path in (private, public)] == [0o600, 0o644]
    before = private.read_bytes(), public.read_bytes()
    with pytest.raises(OutputError, match=r"acme\.key: is there already, and a key is never replaced; choose another"):
        make_keys(private.with_suffix(""))
    assert (private.read_bytes(), public.read_bytes()) == before
    (tmp_path / "half.pub").write_text("another's")
    with pytest.raises(OutputError, match=r"half\.pub: is there already"):
        make_keys(tmp_path / "half")
    assert [path.name for path in tmp_path.iterdir()] == ["half.pub"]


def test_a_bundle_without_a_signature_is_refused_where_one_is_required(tiny_bundle, keys):
    folder = tiny_bundle().folder
    with pytest.raises(SignatureError, match=r"is not signed, a signature by a trusted key is required; sign it where"):
        open_bundle(folder, trust=read_trust(keys("acme")[1]))


def test_a_signature_by_a_key_that_is_not_trusted_is_refused(signed, keys):
    folder, _ = signed
    others = [keys("bell")[1], keys("core")[1]]
    with pytest.raises(
        SignatureError, match=r"no signature of this manifest by bell\.pub SHA256:[0-9a-f]{64}, nor by 1 other trusted"
    ):
        open_bundle(folder, trust=read_trust(others))


def test_one_of_several_trusted_keys_is_enough(signed, keys):
    folder, public = signed
    assert open_bundle(folder, trust=read_trust([keys("bell")[1], public])).signer.path == public


def test_no_change_of_a_signature_or_of_a_signed_manifest_goes_unseen(signed):
    folder, public = signed
    trust = read_trust(public)
    for name in ("manifest.sig", "manifest.json"):
        path = folder / name
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 211)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(SignatureError, match="is no signature of this manifest by acme.pub"):
                open_bundle(folder, trust=trust)
        path.write_bytes(whole)
    assert open_bundle(folder, trust=trust)


@pytest.mark.parametrize("content", [b"", bytes(63), bytes(65)])
def test_a_signature_of_another_size_is_told_by_its_size(signed, content):
    folder, public = signed
    (folder / "manifest.sig").write_bytes(content)
    with pytest.raises(SignatureError, match=rf"manifest\.sig: is no file of 64 bytes \(it has {len(content)}\), as"):
        open_bundle(folder, trust=read_trust(public))


def test_a_signature_that_is_no_file_is_refused_and_nobody_waits_for_it(signed):
    folder, public = signed
    path = folder / "manifest.sig"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(SignatureError, match=r"manifest\.sig: .*, a file is needed; copy the bundle again"):
        open_bundle(folder, trust=read_trust(public))
    for make, what in ((os.mkfifo, "Is a FIFO, must be a regular file"), (os.mkdir, "Is a directory")):
        path.unlink()
        make(path)
        with pytest.raises(SignatureError, match=rf"manifest\.sig: {what}, a file is needed; copy the bundle again"):
            open_bundle(folder, trust=read_trust(public))


def test_the_signature_is_looked_at_before_the_manifest_is_understood(signed):
    folder, public = signed
    (folder / "manifest.json").write_bytes(b"no JSON")
    with pytest.raises(SignatureError):
        open_bundle(folder, trust=read_trust(public))
    with pytest.raises(BundleFormatError, match="JSON is malformed"):
        open_bundle(folder)


def test_a_file_that_changed_after_the_signing_is_refused_by_its_hash(signed):
    folder, public = signed
    (folder / "tokens.bin").write_bytes(bytes((folder / "tokens.bin").stat().st_size))
    with pytest.raises(BundleFormatError, match=r"'tokens\.bin' does not match its SHA-256"):
        edgekit.load(folder, threads=1, trust=public)
    with pytest.raises(UsageError, match="verify_hashes: False, a signature is of the hashes, so they are checked"):
        edgekit.load(folder, threads=1, trust=public, verify_hashes=False)


def test_only_a_whole_bundle_is_signed(tiny_bundle, keys):
    folder = tiny_bundle().folder
    (folder / "tokens.bin").unlink()
    with pytest.raises(BundleFileError, match=r"'tokens\.bin' is missing"):
        sign_bundle(folder, read_private(keys("acme")[0]))
    assert not (folder / "manifest.sig").exists()


def test_another_signature_is_replaced_only_when_that_is_asked_for(signed, keys):
    folder, public = signed
    acme, bell = read_private(public.with_suffix(".key")), read_private(keys("bell")[0])
    before = (folder / "manifest.sig").read_bytes()
    assert sign_bundle(folder, acme) is True  # is there already, the same
    with pytest.raises(OutputError, match=r"manifest\.sig: is there already, by another key or of another manifest"):
        sign_bundle(folder, bell)
    assert (folder / "manifest.sig").read_bytes() == before
    assert sign_bundle(folder, bell, overwrite=True) is True
    assert open_bundle(folder, trust=read_trust(bell.public.path.with_suffix(".pub"))).signer.path.name == "bell.pub"


def test_a_link_in_the_place_of_the_signature_is_not_written_through(signed, tmp_path):
    folder, public = signed
    (tmp_path / "precious").write_bytes(b"kept")
    (folder / "manifest.sig").unlink()
    (folder / "manifest.sig").symlink_to(tmp_path / "precious")
    acme = read_private(public.with_suffix(".key"))
    with pytest.raises(OutputError, match="is there already"):
        sign_bundle(folder, acme)
    sign_bundle(folder, acme, overwrite=True)
    assert (tmp_path / "precious").read_bytes() == b"kept"
    assert open_bundle(folder, trust=read_trust(public))


def pem(key, *, private=False, passphrase=None):
    """Return the PEM of a private key of ``cryptography``, or of its public key."""
    if private:
        lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), "RSA"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), "E(C|llipticCurve)"),
        (ed448.Ed448PrivateKey.generate, "Ed448"),
    ],
)
def test_a_key_of_another_kind_is_told_by_its_kind(tmp_path, make, kind):
    path, key = tmp_path / "theirs.pem", make()
    for private, read in ((False, read_public), (True, read_private)):
        path.write_bytes(pem(key, private=private))
        path.chmod(0o600)
        with pytest.raises(KeyFileError, match=rf"theirs\.pem: is a key of kind {kind}, Ed25519 is needed; make one"):
            read(path)


def test_the_other_half_of_a_pair_is_told_from_the_one_that_is_wanted(keys):
    private, public = keys("acme")
    with pytest.raises(KeyFileError, match=r"acme\.key: is a private key, a public one is needed; give NAME\.pub"):
        read_public(private)
    with pytest.raises(KeyFileError, match=r"acme\.pub: is a public key, the private one is needed to sign"):
        read_private(public)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDCI acme",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        bytes(range(256)),
        b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n",
    ],
)
def test_what_is_no_key_is_told_in_one_line(tmp_path, content):
    path = tmp_path / "any.pub"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"any\.pub: no public key in PEM is in it; make one with") as refused:
        read_public(path)
    assert "\n" not in str(refused.value)
    if b"PUBLIC" not in content:
        with pytest.raises(KeyFileError, match=r"any\.pub: no private key in PEM is in it; make one with"):
            read_private(path)


def test_what_is_no_file_is_told_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(70_000))
    for path, said in (
        (tmp_path / "pipe", "Is a FIFO, must be a regular file; check the path"),
        (tmp_path, "Is a directory; check the path"),
        (tmp_path / "nowhere", "No such file or directory; check the path"),
        (tmp_path / "large", "Has 70,000 bytes, at most 65,536 are read; check the path"),
    ):
        with pytest.raises(KeyFileError, match=said):
            read_public(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_private_key_that_others_may_read_is_not_used(keys, mode):
    private, _ = keys("acme")
    private.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"acme\.key: others may read it \(mode {mode:04o}\).*; chmod 600 it"):
        read_private(private)


def test_a_key_with_a_passphrase_asks_for_it(keys, tmp_path):
    private, public = keys("acme")
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(private.read_bytes(), None)
    locked.write_bytes(pem(key, private=True, passphrase=b"a secret"))
    locked.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"locked\.key: has a passphrase, and none is given; sign on a terminal"):
        read_private(locked)
    with pytest.raises(KeyFileError, match=r"locked\.key: the passphrase does not open it"):
        read_private(locked, lambda: "another")
    opened = read_private(locked, lambda: "a secret")
    assert opened.sign(b"x") == read_private(private).sign(b"x")
    assert read_public(public).fits(opened.sign(b"x"), b"x")
    read_private(private, lambda: pytest.fail("is not locked"))


def test_a_private_key_shows_nothing_of_itself(keys):
    private, _ = keys("acme")
    shown = repr(read_private(private))
    assert private.read_text().splitlines()[1] not in shown
    assert "Ed25519PrivateKey" not in shown


def test_a_folder_of_keys_is_every_key_in_it(signed, keys, tmp_path):
    folder, public = signed
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    with pytest.raises(KeyFileError, match=r"trusted: no key is there, \*\.pub and \*\.pem are read; put the signer's"):
        read_trust(trusted)
    shutil.copy(public, trusted / "acme.pem")
    shutil.copy(keys("bell")[1], trusted)
    (trusted / "README").write_text("no key")
    (trusted / ".acme.pub").write_text("an editor's")
    assert [key.path.name for key in read_trust(trusted).keys] == ["acme.pem", "bell.pub"]
    assert open_bundle(folder, trust=read_trust(str(trusted))).signer.path.name == "acme.pem"
    (trusted / "bad.pub").write_text("no key")  # a store that is not what it seems is not used in part
    with pytest.raises(KeyFileError, match=r"bad\.pub: no public key in PEM"):
        read_trust(trusted)


def test_an_empty_path_trusts_nothing_that_lies_here_and_a_point_does(signed, monkeypatch):
    class Nowhere:
        def __fspath__(self):
            return ""

    folder, public = signed
    monkeypatch.chdir(public.parent)
    for trust in ("", [""], [public, ""], Nowhere(), (Nowhere(),)):
        with pytest.raises(
            KeyFileError, match=r"^trust: a path is empty; name a file of a public key or a folder, '\.'"
        ):
            read_trust(trust)
        with pytest.raises(KeyFileError, match="a path is empty"):
            edgekit.load(folder, threads=1, trust=trust)
    assert open_bundle(folder, trust=read_trust(".")).signer.path.name == public.name


def test_keys_that_everybody_can_write_are_not_trusted(keys, tmp_path):
    _, public = keys("acme")
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    copy = shutil.copy(public, trusted)
    trusted.chmod(0o777)
    with pytest.raises(KeyFileError, match=r"trusted: everybody can write to it \(mode 0777\).*; chmod o-w it"):
        read_trust(trusted)
    trusted.chmod(0o755)
    Path(copy).chmod(0o646)
    with pytest.raises(KeyFileError, match=r"acme\.pub: everybody can write to it \(mode 0646\)"):
        read_trust(trusted)


def test_the_trust_store_is_the_machine_s_and_the_user_s(signed, monkeypatch, tmp_path):
    folder, public = signed
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(trusting, "SYSTEM_STORE", tmp_path / "etc")
    assert store_folders() == (tmp_path / "etc", tmp_path / "config" / "edgekit" / "trust")
    for store in store_folders():
        with pytest.raises(KeyFileError, match=r"--require-signature: no key is trusted here; copy the signer's NAME"):
            read_trust(None, require_signature=True)
        store.mkdir(parents=True)
        shutil.copy(public, store)
        model = edgekit.load(folder, threads=1, require_signature=True)
        assert model.bundle.signer.path == store / "acme.pub"
        (store / "acme.pub").unlink()
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")  # a relative one is to be ignored
    assert store_folders()[1].is_absolute()


def test_no_key_at_all_is_no_way_around_the_check(signed):
    folder, _ = signed
    with pytest.raises(KeyFileError, match="trust: no key is named, so no bundle could be"):
        edgekit.load(folder, threads=1, trust=[])


def test_without_the_package_the_extra_is_named(signed, monkeypatch):
    folder, public = signed
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(
        MissingPackageError, match=r"cryptography is not installed.*; pip install 'edgekit-audio\[sign\]'"
    ):
        edgekit.load(folder, threads=1, trust=public)
    assert edgekit.load(folder, threads=1)


@pytest.mark.parametrize("trust", [4, b"acme.pub", [None], {"acme.pub"}, [4, "acme.pub"]])
def test_what_is_no_path_of_a_key_is_refused_by_its_value(signed, trust):
    folder, _ = signed
    with pytest.raises(UsageError, match=r"^trust: .*, the path of a public key or of a folder, or a list of them, is"):
        edgekit.load(folder, threads=1, trust=trust)


@pytest.mark.parametrize("trust", ["", "a\0b", "nowhere.pub", ["nowhere"]])
def test_a_path_without_a_key_is_refused(signed, trust, tmp_path, monkeypatch):
    folder, _ = signed
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(KeyFileError):
        edgekit.load(folder, threads=1, trust=trust)


def test_a_bundle_of_the_first_version_is_signed_as_it_is(tiny_bundle, keys):
    folder = tiny_bundle().folder
    fields = json.loads((folder / "manifest.json").read_text())
    later = ("needs", "checksum")
    fields = {name: value for name, value in fields.items() if name not in later} | {"format_version": 1}
    (folder / "manifest.json").write_text(json.dumps(fields))
    private, public = keys("acme")
    sign_bundle(folder, read_private(private))
    assert open_bundle(folder, trust=read_trust(public)).signer.path == public


def test_a_key_file_has_its_mode_and_is_never_written_over_another(tmp_path):
    mask = os.umask(0o777)
    try:
        (tmp_path / "keys").mkdir(mode=0o700)
        (tmp_path / "keys").chmod(0o700)
        assert write_new(tmp_path / "keys" / "one.key", b"first", mode=0o600)
    finally:
        os.umask(mask)
    assert not write_new(tmp_path / "keys" / "one.key", b"second", mode=0o644)
    assert (tmp_path / "keys" / "one.key").read_bytes() == b"first"
    assert (tmp_path / "keys" / "one.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["one.key"]


def test_a_key_that_a_killed_program_left_half_written_goes_with_the_next(tmp_path):
    left = tmp_path / ".acme.key.0a1b2c3d.partial"
    left.write_bytes(b"half of a secret")
    make_keys(tmp_path / "acme")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acme.key", "acme.pub"]


def test_a_key_file_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"one\.key: .*; choose another place or free some space"):
        write_new(tmp_path / "file" / "one.key", b"x", mode=0o600)
    (tmp_path / "one.key").mkdir()
    with pytest.raises(OutputError, match=r"one\.key: Is a directory"):
        write_new(tmp_path / "one.key", b"x", mode=0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "one.key"]
