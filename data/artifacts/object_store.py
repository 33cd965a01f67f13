"""File systems of object stores, through fsspec, and their failures in words.

For ``s3://`` the driver is s3fs, which reads credentials, region and ``AWS_ENDPOINT_URL`` as all
AWS tools do; timeouts and retries below give way to those of fsspec's own configuration, such as
``FSSPEC_S3='{"config_kwargs": {"read_timeout": 120}}'``. Other protocols take their driver's
defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from data.errors import ConfigError, UserError

CACHE_VARIABLE = "MLLM3D_CACHE"
_CLIENT = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "max_pool_connections": 64,
    "retries": {"mode": "standard", "max_attempts": 4},
}
"""Of botocore; the timeouts in seconds. A server's error and a lost connection are tried again."""
_TRIES = 2
"""Of s3fs, over what botocore does not see: a connection lost while an object is being read."""
_OPEN: set[Any] = set()
"""File systems, kept: one that a forked process inherits would be closed there, and complain."""
REFUSED = "Check the credentials, and that they may list, get, put and delete there."
_REMEDIES = {
    "credentials": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the "
    "machine a role.",
    "refused": REFUSED,
    "other": "It was tried several times. Check the network and the store (AWS_ENDPOINT_URL where "
    "it is not Amazon's) and run the same again: what is there already stays.",
}


def filesystem(url: str, asynchronous: bool = False) -> tuple[Any, str]:
    """The file system of an address, of fsspec, and the path in it.

    To be asked for at each use: fsspec keeps one for each process, and a forked process may not
    use its parent's. Raises ConfigError when the driver is not installed.
    """
    import fsspec
    from fsspec.config import conf

    protocol = url.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False, "asynchronous": asynchronous}
    if protocol == "s3":
        chosen = conf.get("s3", {})
        # One part at a time: s3fs asks for an object's size first where it may read several.
        options |= {"max_concurrency": 1, **chosen}
        options["config_kwargs"] = {**_CLIENT, **chosen.get("config_kwargs", {})}
    try:
        fs, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        extra = " (pip install s3fs, or the extra s3 of this package)" if protocol == "s3" else ""
        raise ConfigError(
            f"{CACHE_VARIABLE}: {protocol}:// needs a driver of fsspec that is not installed"
            f"{extra}: {error}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{CACHE_VARIABLE}: {url}: {error}") from error
    if protocol == "s3":
        fs.retries = _TRIES
    _OPEN.add(fs)
    return fs, str(path)


@contextmanager
def told(url: str, done: str, is_absence_told: bool = False) -> Iterator[None]:
    """Raise UserError for what a store's client raises; FileNotFoundError passes unless told."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not is_absence_told:
            raise
        text = " ".join(str(error).split()) or "no more is known"
        what = f"{url}: could not be {done} ({type(error).__name__}: {text})"
        raise UserError(f"{what}. {_REMEDIES[_kind(error)]}") from error


def _kind(error: BaseException) -> str:
    # By name: botocore is there only where s3fs is.
    names = {type(one).__name__ for one in (error, error.__cause__)}
    if any("Credential" in name or "Profile" in name for name in names):
        return "credentials"
    return "refused" if isinstance(error, PermissionError) else "other"
