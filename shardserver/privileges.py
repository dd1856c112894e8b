"""Whom a worker runs as (DESIGN 2.3).

Root gives its uid and gid away; somebody else keeps what he has. Where the user namespace maps
a single uid (the demo without root) there is nobody to become, and the banner says so. What
holds everywhere, no capabilities, no_new_privs and seccomp, is `native.confine`.
"""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from shardserver.errors import ConfigInvalidError


@dataclass(frozen=True)
class Identity:
    """The uid and gid to become; None keeps the present ones. `note` is for the banner."""

    uid: int | None
    gid: int | None
    note: str


def maps(id_map: str, wanted: int) -> bool:
    """Whether a uid_map or gid_map knows an id."""
    for line in id_map.splitlines():
        inside, _, count = map(int, line.split())
        if inside <= wanted < inside + count:
            return True
    return False


def decide(euid: int, uid: int, gid: int, uid_map: str, gid_map: str) -> Identity:
    """Whom to become. Pure."""
    if euid != 0:
        return Identity(None, None, f"uid {euid}")
    if not maps(uid_map, uid) or not maps(gid_map, gid):
        return Identity(None, None, f"uid {euid} kept: this user namespace has no uid {uid}")
    return Identity(uid, gid, f"uid {uid}")


def resolve(user: str, group: str) -> Identity:
    """Looks the names up, before the fork; only root needs them."""
    euid = os.geteuid()
    if euid != 0:
        return decide(euid, euid, os.getegid(), "", "")
    try:
        account = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        uid, gid = account.pw_uid, account.pw_gid
    except KeyError:
        raise ConfigInvalidError(
            f'--user: there is no user "{user}"', "give a user without privileges, such as nobody"
        ) from None
    if group:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise ConfigInvalidError(f'--group: there is no group "{group}"') from None
    process = Path("/proc/self")
    return decide(
        euid, uid, gid, (process / "uid_map").read_text(), (process / "gid_map").read_text()
    )


def drop(identity: Identity) -> None:
    """Becomes that identity, for good."""
    if identity.uid is None or identity.gid is None:
        return
    os.setgroups([])
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
