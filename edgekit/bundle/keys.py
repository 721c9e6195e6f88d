"""Ed25519 keys in files: made, read and told apart. PEM as OpenSSL writes it, PKCS#8 and SubjectPublicKeyInfo.

``cryptography`` (extra ``sign``) is imported when a key is first needed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.atomic import write_new
from edgekit.errors import KeyFileError, MissingPackageError, OutputError
from edgekit.plainfiles import read_with_mode

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_BYTES = 64
_PRIVATE_MODE, _PUBLIC_MODE = 0o600, 0o644
_MAX_BYTES = 1 << 16  # a key has some hundred
_MAKE = "make one with `edgekit keygen -o NAME`"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key, the file it came from, and what it is called: ``fingerprint``, SHA-256 of its DER form."""

    path: Path
    fingerprint: str
    key: "Ed25519PublicKey"

    def fits(self, signature: bytes, content: bytes) -> bool:
        """Return whether the owner of this key made a signature over ``content``."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.key.verify(signature, content)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.path.name} {self.fingerprint}"


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """A private key and the public one that goes with it; shows nothing of itself."""

    public: PublicKey
    _key: "Ed25519PrivateKey"

    def sign(self, content: bytes) -> bytes:
        """Return the signature over ``content``: 64 bytes, the same each time."""
        return self._key.sign(content)


def read_public(path: Path) -> PublicKey:
    """Return the public key in a PEM file. Raises KeyFileError for anything else, or if everybody may write it."""
    _need_package()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data, mode = _read_key(path)
    check_writers(path, mode)
    if b"PRIVATE KEY-----" in data:
        raise KeyFileError(f"{path}: is a private key, a public one is needed; give NAME.pub that was made with it")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path}: no public key in PEM is in it; {_MAKE}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path}: is a key of kind {_kind(key)}, Ed25519 is needed; {_MAKE}")
    return _public(path, key)


def read_private(path: Path, passphrase: Callable[[], str | None] = lambda: None) -> PrivateKey:
    """Return the private key in a PEM file, which nobody but its owner may read; ``passphrase`` is asked if it has one.

    Raises KeyFileError for anything else.
    """
    _need_package()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data, mode = _read_key(path)
    if b"PUBLIC KEY-----" in data:
        raise KeyFileError(f"{path}: is a public key, the private one is needed to sign; give NAME.key")
    if mode & 0o077:
        raise KeyFileError(f"{path}: others may read it (mode {mode:04o}), a private key is its owner's; chmod 600 it")
    password = None
    if b"ENCRYPTED" in data and (password := passphrase()) is None:
        raise KeyFileError(
            f"{path}: has a passphrase, and none is given; sign on a terminal, or set EDGEKIT_PASSPHRASE"
        )
    try:
        key = load_pem_private_key(data, None if password is None else password.encode())
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        rule = f"no private key in PEM is in it; {_MAKE}" if password is None else "the passphrase does not open it"
        raise KeyFileError(f"{path}: {rule}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: is a key of kind {_kind(key)}, Ed25519 is needed; {_MAKE}")
    return PrivateKey(_public(path, key.public_key()), key)


def make_keys(name: Path) -> PublicKey:
    """Write a new key pair, NAME.key (mode 0600) and NAME.pub, and return the public one.

    Raises OutputError where one of them is there already, or cannot be written.
    """
    if name.name in {"", ".."}:
        raise OutputError(f"{name}: is no name of a file, NAME.key and NAME.pub are written; choose one, such as acme")
    _need_package()
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = (name.with_name(f"{name.name}.{ending}") for ending in ("key", "pub"))
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    pub = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    _write_key(private, pem, _PRIVATE_MODE)
    try:
        _write_key(public, pub, _PUBLIC_MODE)
    except BaseException:  # half of a pair is none
        private.unlink()
        raise
    return _public(public, key.public_key())


def _write_key(place: Path, content: bytes, mode: int) -> None:
    if not write_new(place, content, mode=mode):
        raise OutputError(f"{place}: is there already, and a key is never replaced; choose another name")


def _read_key(path: Path) -> tuple[bytes, int]:
    """Return the bytes and the permissions of a file that may hold a key. Raises KeyFileError if it is none."""
    try:
        return read_with_mode(path, _MAX_BYTES)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}; check the path and its permissions") from error


def check_writers(path: Path, mode: int) -> None:
    """Raise KeyFileError for a file or folder of keys that everybody can write: trusting it is trusting everybody."""
    if mode & 0o002:
        raise KeyFileError(f"{path}: everybody can write to it (mode {mode:04o}), so it tells nothing; chmod o-w it")


def _public(path: Path, key: "Ed25519PublicKey") -> PublicKey:
    from cryptography.hazmat.primitives import serialization as forms

    der = key.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(path, f"SHA256:{hashlib.sha256(der).hexdigest()}", key)


def _kind(key: object) -> str:
    """Return what cryptography calls the kind of a key, such as RSA."""
    return type(key).__name__.strip("_").removesuffix("PublicKey").removesuffix("PrivateKey")


def _need_package() -> None:
    try:
        import cryptography  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "cryptography is not installed, signatures need it; pip install 'edgekit-audio[sign]'"
        ) from error
